static sum_t pooled[MOST_RESULTS]; /* a row of one filter after the pooling */

/* Take a row of a convolution into sums or maxima. */
static void pool(const struct image *m)
{
    const uint16_t columns = m->columns, wide = m->pool_columns;
    const sum_t least = m->layer.least;
    uint16_t first = 0; /* column at which the window begins, counted from the padding's */
    for (uint16_t i = 0; i < m->results; i++) {
        sum_t best = pooled[i];
        for (uint16_t j = first; j < first + wide; j++) {
            if (j >= m->pool_left && j - m->pool_left < columns) {
                const sum_t sum = sums[j - m->pool_left];
                if (m->means) {
                    best += sum > least ? sum : least;
                } else if (sum > best) {
                    best = sum;
                }
            }
        }
        pooled[i] = best;
        first = (uint16_t)(first + m->pool_across);
    }
}

/* Row y of means or overlapping maxima, from all rows of the inputs that it depends on. */
static void image_from_window(const struct image *m, uint16_t y, const value_t *inputs, value_t *results)
{
    const uint8_t *gap = m->layer.gaps;
    const weight_t *weight = m->layer.weights;
    for (uint16_t filter = 0; filter < m->layer.outputs; filter++) {
        const uint16_t count = READ_COUNT(m->layer.counts + filter);
        const sum_t bias = bias_of(&m->layer, filter);
        for (uint16_t i = 0; i < m->results; i++) {
            pooled[i] = m->start;
        }
        for (uint16_t j = 0; j < m->pool_rows; j++) {
            const uint16_t row = (uint16_t)(y * m->pool_down + j);
            if (row >= m->pool_top && row - m->pool_top < m->rows) {
                convolve(m, bias, count, gap, weight, inputs + (unsigned)j * m->row_step);
                pool(m);
            }
        }
        for (uint16_t i = 0; i < m->results; i++) {
            results[i] = result_of(&m->layer, pooled[i]);
        }
        results += m->channel;
        gap += count;
        weight += count;
    }
}
