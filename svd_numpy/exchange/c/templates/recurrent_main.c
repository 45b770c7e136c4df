/* Reads the tokens of an example, and compares the outputs of its last step with those expected. */
#include "@NAME@.h"

#include <stdint.h>
#include <stdio.h>

#define FLASH

@TABLES@

int main(void)
{
    const float *outputs = 0;
    unsigned wrong = 0;
    @NAME@_reset();
    for (unsigned t = 0; t < @COUNT@; t++) {
        outputs = @NAME@_step(tokens[t]);
    }
    for (unsigned i = 0; i < @UPPER@_OUTPUTS; i++) {
        const float off = outputs[i] - expected[i];
        wrong += off <= @TOLERANCE@ && off >= -@TOLERANCE@ ? 0u : 1u;
    }
    printf("%u of %u outputs are wrong after %u tokens\n", wrong, (unsigned)@UPPER@_OUTPUTS, (unsigned)@COUNT@);
    return wrong != 0;
}
