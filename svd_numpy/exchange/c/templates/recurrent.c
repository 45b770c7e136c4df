/* @NAME@: a sparse recurrent network that reads one token at a time. Written by svd_numpy; see README.md. */
#include "@NAME@.h"

#include <math.h>
#include <stdint.h>

#define FLASH

@TABLES@

static float state[@STATE@];
@WORK@
/* total += factor * (row i of a matrix that is listed by rows) */
static void add_row(const uint32_t *starts, const uint16_t *columns, const float *values, unsigned i, float factor,
                    float *total)
{
    for (uint32_t k = starts[i]; k < starts[i + 1]; k++) {
        total[columns[k]] += factor * values[k];
    }
}
@FUNCTIONS@
void @NAME@_reset(void)
{
    for (unsigned i = 0; i < @STATE@; i++) {
        state[i] = 0.0f;
    }
}

const float *@NAME@_step(unsigned token)
{
    if (token < @UPPER@_TOKENS@PADDING@) {
@LAYERS@
    }
    return state + @OUTPUT@;
}
