/* A convolution with its pooling. Images lie in memory row by row, each row channel by channel. */
struct image {
    struct layer layer;
    uint16_t rows, columns;        /* of the convolution */
    uint16_t row_step, column_step;  /* from one to the next, in its inputs */
    uint16_t pool_rows, pool_columns, pool_down, pool_across, pool_top, pool_left;
    uint16_t results;              /* columns of the pooling */
    uint16_t channel;              /* from a result to that of the next filter */
    uint8_t means;                 /* whether the pooling sums rather than takes maxima */
    sum_t start;                   /* what a sum begins with */
};

/* The rows of an image that are kept; the oldest makes room for the next. */
struct rows {
    value_t *memory;
    uint16_t size, slots;          /* numbers in a row; rows */
    uint16_t above, height;        /* rows of padding above the image; rows of the image */
    value_t pad;
};

static sum_t sums[MOST_COLUMNS]; /* a row of one filter of a convolution */

/* Make room for the next row, and fill it with padding. `done` rows have been written before. */
static value_t *next_row(const struct rows *r, uint16_t done)
{
    value_t *row = r->memory;
    if (done < r->slots) {
        row += (unsigned)done * r->size;
    } else {
        unsigned last = (unsigned)(r->slots - 1) * r->size;
        for (unsigned i = 0; i < last; i++) {
            row[i] = row[i + r->size];
        }
        row += last;
    }
    for (uint16_t i = 0; i < r->size; i++) {
        row[i] = r->pad;
    }
    return row;
}

/* Whether the next row lies in the image, not in the padding above or below it. */
static uint8_t is_inside(const struct rows *r, uint16_t done)
{
    return done >= r->above && done - r->above < r->height;
}

/* One row of one filter with `count` weights, four columns at a time, so that their sums stay in registers. */
static void convolve(const struct image *m, sum_t bias, uint16_t count, const uint8_t *gaps, const weight_t *weights,
                     const value_t *inputs)
{
    const unsigned columns = m->columns, step = m->column_step;
    unsigned i = 0;
    for (; i + 4 <= columns; i += 4) {
        const value_t *input = inputs + i * step;
        sum_t a = bias, b = bias, c = bias, d = bias;
        for (uint16_t n = 0; n < count; n++) {
            const weight_t weight = READ_WEIGHT(weights + n);
            input += READ_GAP(gaps + n);
            a += weight * input[0];
            b += weight * input[step];
            c += weight * input[2 * step];
            d += weight * input[3 * step];
        }
        sums[i] = a;
        sums[i + 1] = b;
        sums[i + 2] = c;
        sums[i + 3] = d;
    }
    for (; i < columns; i++) {
        const value_t *input = inputs + i * step;
        sum_t a = bias;
        for (uint16_t n = 0; n < count; n++) {
            input += READ_GAP(gaps + n);
            a += READ_WEIGHT(weights + n) * *input;
        }
        sums[i] = a;
    }
}
