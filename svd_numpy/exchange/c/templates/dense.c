/* A dense layer: its results go to `results`, or, if that is 0, its sums to `scores`. */
static void dense(const struct layer *l, const value_t *inputs, value_t *results, sum_t *scores)
{
    const uint8_t *gap = l->gaps;
    const weight_t *weight = l->weights;
    for (uint16_t output = 0; output < l->outputs; output++) {
        const value_t *input = inputs;
        sum_t sum = bias_of(l, output);
        for (uint16_t left = READ_COUNT(l->counts + output); left > 0; left--) {
            input += READ_GAP(gap);
            sum += READ_WEIGHT(weight) * *input;
            gap++;
            weight++;
        }
        if (results == 0) {
            scores[output] = sum > l->least ? sum : l->least;
        }
#if MEMORY_RESULTS
        else {
            results[output] = result_of(l, sum);
        }
#endif
    }
}
