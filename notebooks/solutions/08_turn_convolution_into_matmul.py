# Answers to the tutorial 08_turn_convolution_into_matmul: How does a convolution become a matrix product?
#
# They continue the notebook: run them in it.

# %% im2col
def im2col(images, kh, kw):
    """Windows as rows: array (B * stops, kh * kw * C)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (kh, kw), axis=(1, 2))  # (B, oh, ow, C, kh, kw)
    channels_last = windows.transpose(0, 1, 2, 4, 5, 3)
    return channels_last.reshape(-1, kh * kw * images.shape[-1])

# %% col2im
def col2im(cols, shape, kh, kw):
    """Transpose of im2col: add every entry to the pixel that it was copied from."""
    n, height, width, channels = shape
    oh, ow = height - kh + 1, width - kw + 1
    cols, images = cols.reshape(n, oh, ow, kh, kw, channels), np.zeros(shape)
    for ky, kx in np.ndindex(kh, kw):
        images[:, ky : ky + oh, kx : kx + ow] += cols[:, :, :, ky, kx]
    return images

# %% Exercise 1
# Solution 1. Take every second window; the reshape must know the new size.
def conv_stride(images, theta, stride):
    """Windows start at multiples of the stride."""
    kh, kw, _, n_out = theta.shape
    windows = np.lib.stride_tricks.sliding_window_view(images, (kh, kw), axis=(1, 2))[:, ::stride, ::stride]
    rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, theta.size // n_out)
    return (rows @ theta.reshape(-1, n_out)).reshape(*windows.shape[:3], n_out)


print(np.allclose(conv_stride(colour_images, filters, 2), conv(colour_images, filters)[:, ::2, ::2]))

# %% Exercise 2
# Solution 2. Pad, then convolve; backwards, col2im gives the gradient of the padded image, and its border is cut off.
padded = np.pad(images[:1], ((0, 0), (1, 1), (1, 1), (0, 0)))
print(
    conv(padded, rng.normal(size=(3, 3, 1, 2))).shape,
    "and back:",
    col2im(np.ones((64, 9)), padded.shape, 3, 3)[:, 1:-1, 1:-1].shape,
)

# %% Exercise 3
# Solution 3. im2col is a reshape: the pixels are the rows. The layer is a dense layer on channels, applied to each pixel alone.
print(np.array_equal(im2col(colour_images, 1, 1), colour_images.reshape(-1, 3)))

# %% Exercise 4
# Solution 4. Fewer weights, but two matrices in place of one: im2col pays for positions, not for weights.
small, large = 2 * 9 * 20 * 20, 25 * 20 * 20
rows_small = 26**2 * 9 * 20 + 24**2 * 9 * 20  # 28 to 26 to 24 pixels
rows_large = 24**2 * 25 * 20
print(f"weights {small:,} against {large:,}; numbers in im2col {rows_small:,} against {rows_large:,} per image")
two = im2col(conv(np.zeros((1, 28, 28, 20)), np.zeros((3, 3, 20, 20))), 3, 3)
assert (
    im2col(np.zeros((1, 28, 28, 20)), 3, 3).size + two.size == rows_small
    and conv(np.zeros((1, 28, 28, 20)), np.zeros((5, 5, 20, 20))).shape[1] == 24
)

# %% Exercise 5
# Solution 5. Noise of its own at each of 36 positions averages out; that of the filter is the same everywhere and stays.
cols, draws = im2col(images[:1], 3, 3), 4000
theta, sigma = edges.reshape(9, 1), np.full((9, 1), 0.3)
by_filter = [(cols @ (theta + sigma * rng.standard_normal(theta.shape))).mean() for _ in range(draws)]
by_output = ((cols @ theta)[:, 0] + np.sqrt(cols**2 @ sigma**2)[:, 0] * rng.standard_normal((draws, 36))).mean(axis=1)
print(f"spread of the mean over positions: filter drawn {np.std(by_filter):.3f}, outputs drawn {np.std(by_output):.3f}")
assert np.std(by_filter) > 3 * np.std(by_output)
# So a network with pooling trains under less noise than its posterior has: sampled weights would disturb it more.

# %% Exercise 6
# Solution 6. A dead filter's output is ReLU(bias), the same at all positions: its effect goes into the biases of the classes.
filters_left, dense_left = (layer["theta"] * micro.kept(layer) for layer in net)
constant = np.maximum(net[0]["bias"], 0)
readers = dense_left.reshape(16, 12, 10)  # position, channel, class
small_bias = net[1]["bias"] + (constant[dead, None] * readers[:, dead].sum(axis=0)).sum(axis=0)
small_filters, small_dense = filters_left[:, ~dead], readers[:, ~dead].reshape(-1, 10)
features = np.maximum(windows[test].reshape(-1, 25) @ small_filters + net[0]["bias"][~dead], 0)
small_logits = features.reshape(len(test), -1) @ small_dense + small_bias
print(f"{(~dead).sum()} of 12 filters; largest difference of the logits {np.abs(small_logits - logits).max():.0e}")
assert np.allclose(small_logits, logits)
