/* Numbers: everything is a float. */

#if defined(__AVR__) /* whose constants stay in flash only if they are read by special instructions */
#include <avr/pgmspace.h>
#define FLASH PROGMEM
#define READ_GAP(p) pgm_read_byte(p)
#define READ_COUNT(p) pgm_read_word(p)
#define READ_WEIGHT(p) pgm_read_float(p)
#define READ_BIAS(p) pgm_read_float(p)
#else
#define FLASH
#define READ_GAP(p) (*(p))
#define READ_COUNT(p) (*(p))
#define READ_WEIGHT(p) (*(p))
#define READ_BIAS(p) (*(p))
#endif

typedef float value_t;
typedef float weight_t;
typedef float bias_t;
typedef float sum_t;
#define LEAST_SUM (-3.4e38f)

struct layer {
    const uint8_t *gaps;      /* from each weight's input to the next one's; the first counts from input 0 */
    const weight_t *weights;  /* of output 0, then of output 1, ...; a 0 only bridges a gap over 255 */
    const uint16_t *counts;   /* how many of them each output has */
    const bias_t *biases;
    uint16_t outputs;
    sum_t least;              /* smaller sums count as this: 0 for ReLU */
};

static sum_t bias_of(const struct layer *l, uint16_t output)
{
    return READ_BIAS(l->biases + output);
}

#if MEMORY_RESULTS
static value_t result_of(const struct layer *l, sum_t sum)
{
    return sum > l->least ? sum : l->least;
}
#endif
