/* Take a row of a convolution into a row of maxima; `first` says that it is the first one. */
static void image_row(const struct image *m, uint8_t first, const value_t *inputs, value_t *results)
{
    const uint16_t columns = m->columns, wide = m->pool_columns;
    const uint8_t *gaps = m->layer.gaps;
    const weight_t *weights = m->layer.weights;
    for (uint16_t filter = 0; filter < m->layer.outputs; filter++) {
        const uint16_t count = READ_COUNT(m->layer.counts + filter);
        uint16_t begin = 0; /* column at which the window begins, counted from the padding's */
        convolve(m, bias_of(&m->layer, filter), count, gaps, weights, inputs);
        for (uint16_t i = 0; i < m->results; i++) {
            sum_t best = LEAST_SUM;
            for (uint16_t j = begin; j < begin + wide; j++) {
                if (j >= m->pool_left && j - m->pool_left < columns && sums[j - m->pool_left] > best) {
                    best = sums[j - m->pool_left];
                }
            }
            const value_t result = result_of(&m->layer, best);
            if (first || result > results[i]) {
                results[i] = result;
            }
            begin = (uint16_t)(begin + m->pool_across);
        }
        results += m->channel;
        gaps += count;
        weights += count;
    }
}
