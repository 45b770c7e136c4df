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
    height, width, channels = U(sizes[0]), U(sizes[1]), U(sizes[2])
    to_height, to_width, top, left, down, across = (
        U(sizes[3]), U(sizes[4]), U(sizes[5]), U(sizes[6]), U(sizes[7]), U(sizes[8]),
    )  # fmt: skip
    for i in range(U(cuda.grid(1)), U(images * to_height * to_width * channels), U(cuda.gridsize(1))):
        e = U(i)
        channel, pixel = U(e % channels), U(e // channels)
        line, image = U(pixel // to_width), U(pixel // U(to_width * to_height))
        # What lies above or left of the source is a very large number.
        y, x = U(line % to_height - top), U(pixel % to_width - left)
        value = ZERO
        if y % down == U(0) and x % across == U(0):
            y, x = U(y // down), U(x // across)
            if y < height and x < width:
                value = source[U(U(U(image * height + y) * width + x) * channels + channel)]
        out[e] = value


@device
def seen(pixel, ky, kx, g):
    """Row and column that window `pixel` of an image sees by a tap; what lies above or left is a very large number."""
    oy, ox = U(pixel // U(g[12])), U(pixel % U(g[12]))
    return U(oy * U(g[5]) + U(ky) * U(g[9]) - U(g[7])), U(ox * U(g[6]) + U(kx) * U(g[10]) - U(g[8]))


@kernel("ugFFI")
def max_pool_forward(images, g, x, y, chosen):
    """y = the largest pixel of each window, chosen = the first tap that sees it; one thread an entry of y."""
    height, width, channels, positions = U(g[0]), U(g[1]), U(g[2]), U(g[11] * g[12])
    for i in range(U(cuda.grid(1)), U(images * positions * channels), U(cuda.gridsize(1))):
        e = U(i)
        channel, pixel = U(e % channels), U(e // channels)
        image, pixel = U(pixel // positions), U(pixel % positions)
        best, winner, tap = ZERO, I(-1), I(0)
        for ky in range(g[3]):
            for kx in range(g[4]):
                row, column = seen(pixel, ky, kx, g)
                if row < height and column < width:
                    value = x[U(U(U(image * height + row) * width + column) * channels + channel)]
                    first_nan = value != value and best == best
                    if winner < I(0) or value > best or first_nan:
                        best, winner = value, tap
                tap = I(tap + I(1))
        y[e] = best
        chosen[e] = winner


@kernel("uguFIF")
def pool_backward(images, g, by_choice, dy, chosen, dx):
    """dx = sum of dy over the windows that see this pixel, or that chose it; one thread an entry of dx."""
    height, width, channels, out_height, out_width = U(g[0]), U(g[1]), U(g[2]), U(g[11]), U(g[12])
    share = F(1) if by_choice else F(1) / F(g[3] * g[4])
    for i in range(U(cuda.grid(1)), U(images * height * width * channels), U(cuda.gridsize(1))):
        e = U(i)
        channel, pixel = U(e % channels), U(e // channels)
        line, x = U(pixel // width), U(pixel % width)
        image, y = U(line // height), U(line % height)
        total, tap = ZERO, I(0)
        for ky in range(g[3]):
            down = U(y + U(g[7]) - U(ky) * U(g[9]))  # a very large number where the window would begin above the image
            for kx in range(g[4]):
                across = U(x + U(g[8]) - U(kx) * U(g[10]))
                oy, ox = U(down // U(g[5])), U(across // U(g[6]))
                if oy < out_height and ox < out_width and oy * U(g[5]) == down and ox * U(g[6]) == across:
                    at = U(U(U(image * out_height + oy) * out_width + ox) * channels + channel)
                    if not by_choice or chosen[at] == tap:
                        total += dy[at]
                tap = I(tap + I(1))
        dx[e] = total * share


@kernel("ugFF")
def avg_pool_forward(images, g, x, y):
    """y = mean of each window, 0 outside the image; one thread an entry of y."""
    height, width, channels, positions = U(g[0]), U(g[1]), U(g[2]), U(g[11] * g[12])
    for i in range(U(cuda.grid(1)), U(images * positions * channels), U(cuda.gridsize(1))):
        e = U(i)
        channel, pixel = U(e % channels), U(e // channels)
        image, pixel = U(pixel // positions), U(pixel % positions)
        total = ZERO
        for ky in range(g[3]):
            for kx in range(g[4]):
                row, column = seen(pixel, ky, kx, g)
                if row < height and column < width:
                    total += x[U(U(U(image * height + row) * width + column) * channels + channel)]
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
