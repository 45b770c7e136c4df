/* Numbers: activations are uint8_t, weights int8_t, sums int32_t. */

#if defined(__AVR__) /* whose constants stay in flash only if they are read by special instructions */
#include <avr/pgmspace.h>
#define FLASH PROGMEM
#define READ_GAP(p) pgm_read_byte(p)
#define READ_COUNT(p) pgm_read_word(p)
#define READ_WEIGHT(p) ((int8_t)pgm_read_byte(p))
#define READ_BIAS(p) ((int16_t)pgm_read_word(p))
#else
#define FLASH
#define READ_GAP(p) (*(p))
#define READ_COUNT(p) (*(p))
#define READ_WEIGHT(p) (*(p))
#define READ_BIAS(p) (*(p))
#endif

typedef uint8_t value_t;
typedef int8_t weight_t;
typedef int16_t bias_t;
typedef int32_t sum_t;
#define LEAST_SUM INT32_MIN

struct layer {
    const uint8_t *gaps;      /* from each weight's input to the next one's; the first counts from input 0 */
    const weight_t *weights;  /* of output 0, then of output 1, ...; a 0 only bridges a gap over 255 */
    const uint16_t *counts;   /* how many of them each output has */
    const bias_t *biases;
    uint16_t outputs;
    sum_t bias_unit;          /* what a bias of 1 counts in a sum */
    sum_t least;              /* smaller sums count as this: 0 for ReLU */
    uint8_t shift;            /* from a sum to a result */
};

static sum_t bias_of(const struct layer *l, uint16_t output)
{
    return (sum_t)READ_BIAS(l->biases + output) * l->bias_unit;
}

#if MEMORY_RESULTS
static value_t result_of(const struct layer *l, sum_t sum)
{
    value_t result = 0;
    if (sum > 0) {
        sum >>= l->shift;
        result = sum > 255 ? (value_t)255 : (value_t)sum;
    }
    return result;
}
#endif
