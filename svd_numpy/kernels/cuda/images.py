"""Images on the device: padding and stretching for convolutions, pooling.

**Gather, never scatter.** A thread owns one number of the *result* and looks for what belongs to it. The other way
round, a thread for each number that comes in, several threads would add to the same pixel where windows overlap: with
atomic operations in an order that differs from run to run, without them wrongly. So even the backward passes, which
look like scattering, ask from the other end: which windows saw this pixel?

Images are (B, H, W, C), channels last, and a window is a tuple of 13 numbers, H, W, C, KH, KW, SH, SW, PH, PW, DH, DW,
OH, OW (`geometry` in `tables.py`). By tap (ky, kx), window (oy, ox) sees the pixel

    y = oy SH - PH + ky DH        x = ox SW - PW + kx DW

and conversely pixel (y, x) was seen by that tap from the window oy = (y + PH - ky DH) / SH, if that is a whole number
between 0 and OH; columns alike.

    spread             lays images out in larger ones, with zeros around (padding) or between (stretching) their pixels
    max_pool_forward   largest pixel of a window and the first tap that saw it; a NaN wins, so that it is not hidden
    avg_pool_forward   mean over all taps, those outside counting 0
    sum_pixels         padding by copies of pixels and, with other lists, its backward pass
    pool_backward      sum of dy over the windows that saw a pixel by any tap, or, of maxima, chose it

**Why images are padded in memory.** `product.py` reads a convolution's inputs at row_table[m] + column_table[k] and
asks nothing: a test whether a pixel lies inside, for each of the M K addresses, would cost more than the
multiplication. A border of zeros, written once a pass, answers it beforehand. Stretching is the same for the gradient
of the inputs: with the gradients of the outputs `stride` apart and zeros between, it is a convolution with steps of 1.

**Cost.** Channels are neighbours in memory and in threads, so that a warp reads whole lines where there are 32 channels
or more. A pixel is read by as many threads as there are windows over it; the second and later reads come from the
cache. The integer divisions that turn a thread's number into (image, y, x, channel) are the larger part of the work,
some ten instructions each; against a memory access that misses the cache they do not show, in small networks the launch
is what is felt. `spread` moves 8 bytes a number, pooling by 2 x 2 reads 16 and writes 8 for each number of its result.
"""

from __future__ import annotations

from svd_numpy.kernels.cuda.device import ZERO, F, I, U, cuda, device, kernel

# A window as a tuple of int32, `geometry` in tables.py: H, W, C, KH, KW, SH, SW, PH, PW, DH, DW, OH, OW.


@kernel("usFF")
def spread(images, sizes, source, out):
    """Lay images out in larger, zeroed ones; one thread an entry of out (images, TH, TW, C).

    sizes : (H, W, C, TH, TW, top, left, step down, step right): pixel (y, x) goes to (top + y * step down, left + x *
    step right). Steps of 1 pad an image; larger ones stretch the gradient of a convolution with strides.
    """
    height, width, channels = sizes[0], sizes[1], U(sizes[2])
    to_height, to_width = U(sizes[3]), U(sizes[4])
    for i in range(U(cuda.grid(1)), images * to_height * to_width * channels, U(cuda.gridsize(1))):
        e = U(i)
        channel, pixel = e % channels, e // channels
        y, x = I((pixel // to_width) % to_height) - sizes[5], I(pixel % to_width) - sizes[6]
        value = ZERO
        if y >= I(0) and x >= I(0) and y % sizes[7] == I(0) and x % sizes[8] == I(0):
            y, x = y // sizes[7], x // sizes[8]
            if y < height and x < width:
                image = pixel // (to_width * to_height)
                value = source[((image * U(height) + U(y)) * U(width) + U(x)) * channels + channel]
        out[e] = value


@device
def seen(out_pixel, tap, g):
    """Coordinates (y, x) of the pixel that window `out_pixel` of an image sees by a tap; they may lie outside."""
    oy, ox = I(out_pixel // U(g[12])), I(out_pixel % U(g[12]))
    ky, kx = tap // g[4], tap % g[4]
    return I(oy * g[5] - g[7] + ky * g[9]), I(ox * g[6] - g[8] + kx * g[10])


@kernel("ugFFI")
def max_pool_forward(images, g, x, y, chosen):
    """y = the largest pixel of each window, chosen = the first tap that sees it; one thread an entry of y."""
    channels, positions = U(g[2]), U(g[11] * g[12])
    for i in range(U(cuda.grid(1)), images * positions * channels, U(cuda.gridsize(1))):
        e = U(i)
        channel, pixel = e % channels, e // channels
        best, winner = ZERO, I(-1)
        for tap in range(g[3] * g[4]):
            row, column = seen(pixel % positions, I(tap), g)
            if row >= I(0) and row < g[0] and column >= I(0) and column < g[1]:
                value = x[((pixel // positions * U(g[0]) + U(row)) * U(g[1]) + U(column)) * channels + channel]
                first_nan = value != value and best == best
                if winner < I(0) or value > best or first_nan:
                    best, winner = value, I(tap)
        y[e] = best
        chosen[e] = winner


@kernel("uguFIF")
def pool_backward(images, g, by_choice, dy, chosen, dx):
    """dx = sum of dy over the windows that see this pixel, or that chose it; one thread an entry of dx."""
    channels, pixels = U(g[2]), U(g[0] * g[1])
    share = F(1) if by_choice else F(1) / F(g[3] * g[4])
    for i in range(U(cuda.grid(1)), images * pixels * channels, U(cuda.gridsize(1))):
        e = U(i)
        channel, pixel = e % channels, e // channels
        y, x = I(pixel % pixels // U(g[1])), I(pixel % pixels % U(g[1]))
        total = ZERO
        for tap in range(g[3] * g[4]):
            down = I(y + g[7] - (I(tap) // g[4]) * g[9])
            across = I(x + g[8] - (I(tap) % g[4]) * g[10])
            if down >= I(0) and across >= I(0) and down % g[5] == I(0) and across % g[6] == I(0):
                oy, ox = down // g[5], across // g[6]
                if oy < g[11] and ox < g[12]:
                    at = ((pixel // pixels * U(g[11]) + U(oy)) * U(g[12]) + U(ox)) * channels + channel
                    if not by_choice or chosen[at] == I(tap):
                        total += dy[at]
        dx[e] = total * share


@kernel("ugFF")
def avg_pool_forward(images, g, x, y):
    """y = mean of each window, 0 outside the image; one thread an entry of y."""
    channels, positions = U(g[2]), U(g[11] * g[12])
    for i in range(U(cuda.grid(1)), images * positions * channels, U(cuda.gridsize(1))):
        e = U(i)
        channel, pixel = e % channels, e // channels
        total = ZERO
        for tap in range(g[3] * g[4]):
            row, column = seen(pixel % positions, I(tap), g)
            if row >= I(0) and row < g[0] and column >= I(0) and column < g[1]:
                total += x[((pixel // positions * U(g[0]) + U(row)) * U(g[1]) + U(column)) * channels + channel]
        y[e] = total / F(g[3] * g[4])


@kernel("uuuuTTFF")
def sum_pixels(count, pixels, positions, channels, start, at, x, y):
    """y = the sum of the pixels of x that are listed for each pixel of y; one thread an entry of y.

    pixels, positions : of one image of x and of y; at[start[p]:start[p + 1]] is the list of pixel p
    """
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        channel, pixel = e % channels, e // channels
        image, p = pixel // positions, pixel % positions
        total = ZERO
        for j in range(start[p], start[p + U(1)]):
            total += x[(image * pixels + at[U(j)]) * channels + channel]
        y[e] = total
