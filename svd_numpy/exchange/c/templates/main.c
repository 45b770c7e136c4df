/* Runs the network on @COUNT@ examples and compares its scores with those expected. Returns how many are wrong. */

#include <stdio.h>

#include "@NAME@.h"

#if defined(__AVR__)
#include <avr/pgmspace.h>
#define FLASH PROGMEM
#define READ(p) @READ@(p)
#else
#define FLASH
#define READ(p) (*(p))
#endif

static const @INPUT@ examples[@COUNT@][@INPUTS@] FLASH = {
@EXAMPLES@
};

static const @SCORE@ expected[@COUNT@][@OUTPUTS@] = {
@EXPECTED@
};

@SAME@
int main(void)
{
    int wrong = 0;
    for (unsigned n = 0; n < @COUNT@u; n++) {
        @SCORE@ scores[@OUTPUTS@];
        for (unsigned i = 0; i < @INPUTS@u; i++) {
            @NAME@_input[i] = @CONVERTED@;
        }
        const unsigned best = @NAME@_run(scores);
        int good = 1;
        for (unsigned i = 0; i < @OUTPUTS@u; i++) {
            if (!same(scores[i], expected[n][i])) {
                good = 0;
            }
        }
        printf("example %u: largest score %u, %s\n", n, best, good ? "as expected" : "WRONG");
        wrong += !good;
    }
    return wrong;
}
