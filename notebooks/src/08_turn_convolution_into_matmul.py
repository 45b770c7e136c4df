# %% [markdown]
# # How does a convolution become a matrix product?
#
# **What you'll do.** Write a convolution as six loops, then as one matrix product; write its gradient by turning the trick round; and put Sparse VD on
# the filters, which then costs two lines.
#
# **What you'll learn.** im2col and col2im, why one is the transpose of the other, what they cost in memory, what local reparametrisation gets wrong about
# convolutions, and which weights of a convolutional network die.
#
# **What you'll need.** NumPy, and the backward pass of a dense layer ([notebook 4](04_derive_every_gradient.ipynb)). About 40 minutes.

# %% tags=["setup"]
# From cells.py.

# %%
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from scipy.signal import correlate2d

from svd_numpy import micro
from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests train for fewer epochs
rng = np.random.default_rng(0)
name, pixels, labels = micro.load_problem()
images = pixels.reshape(-1, 8, 8, 1)  # (examples, height, width, channels)


# %% tags=["helpers"]
def fresh_net():
    """12 filters of 5x5 and a dense layer; log_sigma2 = -10, hardly any noise."""
    generator = np.random.default_rng(1)
    thetas = [generator.normal(0, np.sqrt(2 / shape[0]), shape) for shape in ((25, 12), (192, 10))]
    return [{"theta": t, "log_sigma2": np.full(t.shape, -10.0), "bias": np.zeros(t.shape[1])} for t in thetas]


def batches(epoch, size=50):
    """Rows of the training images, shuffled anew in each epoch."""
    shuffled = np.random.default_rng([0, epoch]).permutation(train)
    return np.split(shuffled, range(size, len(shuffled), size))


def pruned_logits(net, rows):
    """Logits of the pruned network, without noise."""
    hidden = windows[rows].reshape(-1, 25)
    for number, layer in enumerate(net):
        hidden = hidden @ (layer["theta"] * micro.kept(layer)) + layer["bias"]
        hidden = hidden if number else np.maximum(hidden, 0).reshape(-1, 192)
    return hidden


def central_difference(layer, key, way, h=1e-6):
    """Slope of the NLL of eight images if parameters of a layer of `net` move this way."""
    layer[key] += h * way
    above = nll(net, train[:8], 0)[0]
    layer[key] -= 2 * h * way
    below = nll(net, train[:8], 0)[0]
    layer[key] += h * way
    return (above - below) / 2 / h


# %% [markdown]
# ## Six loops
#
# A convolutional layer slides a small window over an image. At each stop it multiplies what it sees with a filter and adds up; each filter gives
# one channel of the result. (Strictly, this is a correlation: the filter is not flipped. In deep learning nobody minds.)


# %%
def conv_loops(images, theta):
    """Images (B, H, W, C) and filters (kh, kw, C, O) to outputs (B, H - kh + 1, W - kw + 1, O)."""
    (n, height, width, channels), (kh, kw, _, n_out) = images.shape, theta.shape
    y = np.zeros((n, height - kh + 1, width - kw + 1, n_out))
    for b, i, j, o in np.ndindex(y.shape):
        for ky, kx in np.ndindex(kh, kw):
            for c in range(channels):
                y[b, i, j, o] += images[b, i + ky, j + kx, c] * theta[ky, kx, c, o]
    return y


# %%
edges = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]]) / 4  # left minus right
theta = np.stack([edges, edges.T], axis=-1)[:, :, None, :]  # (3, 3, 1, 2)
y = conv_loops(images[:1], theta)
outside = correlate2d(images[0, :, :, 0], edges, mode="valid")
print(f"outputs {y.shape}; largest difference from SciPy's correlate2d: {np.abs(y[0, :, :, 0] - outside).max():.0e}")
assert np.allclose(y[0, :, :, 0], outside)

# %%
fig, axes = plt.subplots(1, 3, figsize=(8.4, 2.7))
panels = (
    (images[0, :, :, 0], "image", "Greys"),
    (y[0, :, :, 0], "left − right", "RdBu_r"),
    (y[0, :, :, 1], "up − down", "RdBu_r"),
)
for ax, (picture, title, colours) in zip(axes, panels, strict=True):
    limit = np.abs(picture).max()
    ax.imshow(picture, cmap=colours, vmin=0 if colours == "Greys" else -limit, vmax=limit)
    ax.set(title=f"{title}, {picture.shape[0]}×{picture.shape[1]}", xticks=[], yticks=[])
    ax.grid(visible=False)
plt.show()

# %% [markdown]
# ## One product
#
# Look at one stop: nine pixels, nine filter weights, a dot product. So lay every window out as a **row**. Then all stops times all filters are one
# matrix product, for which every computer has excellent code:
#
# $$\underbrace{Y}_{\text{stops}\,\times\,O} = \underbrace{\text{im2col}(X)}_{\text{stops}\,\times\,k_hk_wC}\;\underbrace{\Theta}_{k_hk_wC\,\times\,O}.$$


# %% im2col tags=["blank"]
def im2col(images, kh, kw):
    """Windows as rows: array (B * stops, kh * kw * C)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (kh, kw), axis=(1, 2))  # (B, oh, ow, C, kh, kw)
    channels_last = windows.transpose(0, 1, 2, 4, 5, 3)  # blank
    return channels_last.reshape(-1, kh * kw * images.shape[-1])


# %% tags=["check"]
check(
    "im2col",
    lambda: np.array_equal(
        im2col(np.arange(24.0).reshape(1, 2, 4, 3), 2, 3)[0].reshape(2, 3, 3), np.arange(24.0).reshape(2, 4, 3)[:, :3]
    ),
    "Each row must have the order of the filter: kh, kw, C. The comment says which axis is which.",
    "transpose takes the new order of the axes: 0, 1, 2 stay, and the channels, axis 3, go last.",
)


# %%
def conv(images, theta):
    """The same as conv_loops."""
    kh, kw, _, n_out = theta.shape
    rows = im2col(images, kh, kw) @ theta.reshape(-1, n_out)
    return rows.reshape(len(images), images.shape[1] - kh + 1, images.shape[2] - kw + 1, n_out)


# %%
colour_images, filters = rng.normal(size=(2, 6, 7, 3)), rng.normal(size=(3, 2, 3, 4))
assert np.allclose(conv(colour_images, filters), conv_loops(colour_images, filters))
print("loops and product agree; rows of im2col for one digit:", im2col(images[:1], 3, 3).shape)

# %% tags=["cover"]
stops, shades = [(0, 0), (2, 3), (5, 5)], ("test", "train", "sparsity")
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 4.6), width_ratios=(1.6, 1))
left.imshow(images[0, :, :, 0], cmap="Greys")
right.imshow(im2col(images[:1], 3, 3), cmap="Greys", aspect="auto")
for (i, j), shade in zip(stops, shades, strict=True):
    left.add_patch(Rectangle((j - 0.5, i - 0.5), 3, 3, fill=False, edgecolor=COLOURS[shade], linewidth=3))
    right.add_patch(Rectangle((-0.5, 6 * i + j - 0.5), 9, 1, fill=False, edgecolor=COLOURS[shade], linewidth=2))
left.set(title="image with three of 36 windows", xticks=[], yticks=[])
right.set(title="im2col", xlabel="place in the window", ylabel="window", xticks=range(9))
for ax in (left, right):
    ax.grid(visible=False)
plt.show()

# %% [markdown]
# The three windows of the picture are three rows of the matrix. Neighbouring rows hold nearly the same pixels, only shifted: im2col copies.
#
# **Predict.** LeNet-5 has two convolutions with 5×5 windows, on 28×28 pixels with 1 channel and on 12×12 with 20. How many times larger than its image
# is the matrix, in each?

# %%
layers = {"conv1": (28, 1, 5), "conv2": (12, 20, 5)}
fig, ax = plt.subplots(figsize=(7, 2.4))
for row, (layer, (side, channels, k)) in enumerate(layers.items()):
    image, matrix = side**2 * channels, (side - k + 1) ** 2 * k**2 * channels
    ax.barh(row - 0.18, image, 0.32, color=COLOURS["train"], label="image" if row == 0 else None)
    ax.barh(row + 0.18, matrix, 0.32, color=COLOURS["test"], label="im2col" if row == 0 else None)
    print(f"{layer}: image {image:,} numbers, matrix {matrix:,}, {matrix / image:.1f} times as many")
ax.set(yticks=range(2), yticklabels=layers, xlabel="numbers per image", title="What the copies of im2col cost")
ax.invert_yaxis()
ax.legend()
plt.show()

# %% [markdown]
# Not quite 25, since windows do not hang over the border. That is what the simple way costs. Fast libraries form these rows tile by
# tile in the cache and never store them; the mathematics is the same. The number of multiplications does *not* change: six loops and one
# product do the same arithmetic, but the product does it in an order that keeps the processor busy.
#
# ## Backwards: the transpose of a copy is a sum
#
# The product $Y = \text{cols}\cdot\Theta$ is a dense layer whose examples are windows, so we know two gradients already: $d_\Theta = \text{cols}^\top d_Y$ and
# $d_\text{cols} = d_Y\,\Theta^\top$. What is missing is the way from $d_\text{cols}$ to the image. im2col is linear: it copies each pixel to several
# places. Its transpose, **col2im**, adds up what comes back from those places.


# %% col2im tags=["blank"]
def col2im(cols, shape, kh, kw):
    """Transpose of im2col: add every entry to the pixel that it was copied from."""
    n, height, width, channels = shape
    oh, ow = height - kh + 1, width - kw + 1
    cols, images = cols.reshape(n, oh, ow, kh, kw, channels), np.zeros(shape)
    for ky, kx in np.ndindex(kh, kw):
        images[:, ky : ky + oh, kx : kx + ow] += cols[:, :, :, ky, kx]  # blank
    return images


# %% tags=["check"]
check(
    "col2im",
    lambda: np.allclose(
        col2im(im2col(images[:1], 7, 6), (1, 8, 8, 1), 7, 6)[0, :, :, 0],
        images[0, :, :, 0] * np.outer([1, 2, 2, 2, 2, 2, 2, 1], [1, 2, 3, 3, 3, 3, 2, 1]),
    ),
    "For the place (ky, kx) of the window, cols[:, :, :, ky, kx] holds what comes back from all stops.",
    "It goes to the pixels that stood at this place: add cols[:, :, :, ky, kx].",
)

# %% [markdown]
# How do you test a transpose without writing down the matrix? By what defines it: $\langle A u, v\rangle = \langle u, A^\top v\rangle$ for all $u$ and $v$. Take random
# ones.

# %%
u = rng.normal(size=(2, 6, 7, 3))
v = rng.normal(size=im2col(u, 3, 2).shape)
one, other = (im2col(u, 3, 2) * v).sum(), (u * col2im(v, u.shape, 3, 2)).sum()
print(f"<im2col u, v> = {one:.12f}\n<u, col2im v> = {other:.12f}")
assert np.isclose(one, other)

# %% [markdown]
# **Predict.** What is col2im of a matrix of ones, for an 8×8 image and 3×3 windows? Draw it.

# %%
count = col2im(np.ones((36, 9)), (1, 8, 8, 1), 3, 3)[0, :, :, 0]
fig, ax = plt.subplots(figsize=(3.6, 3.2))
fig.colorbar(ax.imshow(count, cmap="cividis", vmin=0), label="windows", shrink=0.85)
for i, j in np.ndindex(8, 8):
    ax.text(
        j, i, f"{count[i, j]:.0f}", ha="center", va="center", color="white" if count[i, j] < 6 else "black", fontsize=8
    )
ax.set(title="windows that see a pixel", xticks=[], yticks=[])
ax.grid(visible=False)
plt.show()

# %% [markdown]
# It counts the windows that see each pixel: 9 inside, 1 in a corner. A border pixel has less influence on the output, and gets less gradient.
#
# ## Sparse VD on filters
#
# A filter weight is a Gaussian now. Its layer is a dense layer on the rows of im2col, so mean and variance of every output are
#
# $$\text{mean} = \text{cols}\;\theta + b, \qquad \text{var} = \text{cols}^2\,\sigma^2, \qquad y = \text{mean} + \sqrt{\text{var}}\;\varepsilon,$$
#
# with one $\varepsilon$ for each example, position and channel. But stop: *one filter* serves all positions. Draw the filter,
# and its noise moves all outputs together. Draw the outputs, and they move independently. Measure it, on two neighbouring positions.

# %%
theta, sigma = edges.reshape(9, 1), np.full((9, 1), 0.3)
cols = im2col(images[:1], 3, 3)[[13, 19]]  # two windows, one above the other, on the stroke of a digit

# %%
draws = 20_000 if FULL else 4_000
by_filter = np.array([(cols @ (theta + sigma * rng.standard_normal(theta.shape)))[:, 0] for _ in range(draws)])
mean, std = (cols @ theta)[:, 0], np.sqrt(cols**2 @ sigma**2)[:, 0]
by_output = mean + std * rng.standard_normal((draws, 2))

# %%
for way, sample in (("filter drawn", by_filter), ("outputs drawn", by_output)):
    print(f"{way:14} std {sample.std(axis=0).round(3)}, correlation {np.corrcoef(sample.T)[0, 1]:.2f}")
cosine = cols[0] @ cols[1] / np.linalg.norm(cols[0]) / np.linalg.norm(cols[1])
print(f"cosine of the angle between the two windows: {cosine:.2f}")
assert np.allclose(by_filter.std(axis=0), by_output.std(axis=0), rtol=0.05)

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.4), sharex=True, sharey=True)
for ax, sample, title, colour in zip(
    axes, (by_filter, by_output), ("filter drawn", "outputs drawn"), ("accent", "train"), strict=True
):
    ax.plot(*sample[:1500].T, ".", color=COLOURS[colour], markersize=2)
    ax.set(
        title=f"{title}: correlation {np.corrcoef(sample.T)[0, 1]:.2f}", xlabel="output at one position", aspect="equal"
    )
axes[0].set_ylabel("output one position below")
plt.show()

# %% [markdown]
# Where two windows see nearly the same pixels, one drawn filter gives them nearly the same noise: with equal $\sigma$, the correlation is the cosine
# between the windows. Each output has the right mean and the right spread; their correlation is lost. So for convolutions local reparametrisation is not
# exact, as it is for dense layers, but another noise model with the same moments per output. It trains well, has little gradient noise, and
# all implementations that we know do it, this one included. Just do not call it sampling the weights.
#
# ## Which weights die?
#
# Train a small network on the digits: 12 filters of 5×5, ReLU, and a dense layer from the 4·4·12 outputs to 10 classes. Compared with a dense network, only
# im2col is new, on the way in. The image is the first layer's input, so col2im is not even needed.


# %%
def forward(net, cols, step):
    """Logits, and what backward needs. `cols` are the rows of im2col of a batch."""
    tape, y = [], None
    for layer in net:
        if y is not None:
            cols = np.maximum(y, 0).reshape(-1, 192)  # ReLU; (stops, 12) to (examples, 192)
        mean, std = cols @ layer["theta"] + layer["bias"], np.sqrt(cols**2 @ np.exp(layer["log_sigma2"]))
        noise = micro.normals(0, len(tape), step, *mean.shape)
        y = mean + std * noise
        tape.append((cols, std, noise))
    return y, tape


# %%
def backward(net, tape, dy):
    """Gradients of the NLL: the lines of a dense layer, once on examples and once on windows."""
    gradients = []
    for layer, (cols, std, noise) in zip(reversed(net), reversed(tape), strict=True):
        dy = dy.reshape(len(std), -1)  # (examples, 192) to (stops, 12), for the filters
        sigma2 = np.exp(layer["log_sigma2"])
        d_var = dy * noise / np.maximum(2 * std, 1e-15)
        d_log_sigma2 = (cols**2).T @ d_var * sigma2
        gradients.insert(0, {"theta": cols.T @ dy, "log_sigma2": d_log_sigma2, "bias": dy.sum(axis=0)})
        dy = (dy @ layer["theta"].T + 2 * cols * (d_var @ sigma2.T)) * (cols > 0)
    return gradients


# %% [markdown]
# The training loop is that of [notebook 3](03_watch_weights_die.ipynb). But first, is this gradient right? Compare it with central differences.

# %%
order = np.random.default_rng(0).permutation(len(images))
train, test = order[360:], order[:360]
windows = im2col(images, 5, 5).reshape(len(images), 16, 25)  # every window of every digit, once and for all


# %%
def nll(net, rows, step):
    """NLL and its gradients."""
    logits, tape = forward(net, windows[rows].reshape(-1, 25), step)
    loss, d_logits = micro.cross_entropy(logits, labels[rows])
    return loss, backward(net, tape, d_logits)


# %%
net = fresh_net()
for layer in net:
    layer["log_sigma2"] += 7  # more noise, so that it matters
_, gradients = nll(net, train[:8], 0)
for layer, gradient in zip(net, gradients, strict=True):
    for key in ("theta", "log_sigma2", "bias"):
        way = rng.normal(size=layer[key].shape)
        assert np.isclose(central_difference(layer, key, way), (gradient[key] * way).sum(), rtol=1e-5), key
print("six gradients agree with central differences")

# %% [markdown]
# **Predict.** The filters have 300 weights, each used at 16 positions; the dense layer has 1,920, each used once. Which layer will lose the larger
# share?


# %%
def add_kl(net, gradients, share):
    """Add this share of the KL's gradients to those of the NLL."""
    for layer, gradient in zip(net, gradients, strict=True):
        _, d_theta, d_log_sigma2 = micro.kl_divergence(layer["theta"], layer["log_sigma2"])
        gradient["theta"] += share * d_theta
        gradient["log_sigma2"] += share * d_log_sigma2


# %%
epochs, net, step, filters_by_epoch, sparsity = 60 if FULL else 12, fresh_net(), 0, [], []
moments = micro.zeros_like(net), micro.zeros_like(net)
for epoch in range(epochs):
    kl_weight, rate = min(1.0, 3 * epoch / epochs), 5e-3 * min(1.0, 3 * (1 - epoch / epochs))
    for rows in batches(epoch):
        _, gradients = nll(net, rows, step)
        add_kl(net, gradients, kl_weight / len(train))
        micro.adam_step(net, gradients, moments, rate, step)
        step += 1
    sparsity.append([1 - micro.kept(layer).mean() for layer in net])
    filters_by_epoch.append(net[0]["theta"] * micro.kept(net[0]))

# %%
logits, sparsity = pruned_logits(net, test), np.array(sparsity)
error = (logits.argmax(axis=1) != labels[test]).mean()
print(f"pruned network: test error {error:.1%}; pruned: filters {sparsity[-1, 0]:.1%}", end=", ")
print(f"dense layer {sparsity[-1, 1]:.1%}")

# %%
fig, ax = plt.subplots(figsize=(7, 2.8))
for column, (label, colour) in enumerate((("filters, each weight used 16 times", "test"), ("dense layer", "train"))):
    ax.plot(1 + np.arange(epochs), 100 * sparsity[:, column], color=COLOURS[colour], label=label)
ax.set(xlabel="epoch", ylabel="pruned (%)", title="Shared weights are harder to do without", ylim=(0, 100))
ax.legend()
plt.show()
if FULL:
    assert sparsity[-1, 1] > sparsity[-1, 0]

# %%
fig, axes = plt.subplots(2, 12, figsize=(8.6, 1.9))
for row, (filters, label) in enumerate(((filters_by_epoch[epochs // 10], "early"), (filters_by_epoch[-1], "end"))):
    for column in range(12):
        weights = filters[:, column].reshape(5, 5)
        axes[row, column].imshow(np.where(weights == 0, np.nan, weights), cmap="RdBu_r", vmin=-1, vmax=1)
        axes[row, column].set(xticks=[], yticks=[], facecolor=COLOURS["dead"])
        axes[row, column].grid(visible=False)
    axes[row, 0].set_ylabel(label)
fig.suptitle("The 12 filters; grey: pruned", x=0.02, ha="left", fontsize=11)
fig.tight_layout()
plt.show()

# %%
dead = ~micro.kept(net[0]).any(axis=0)
print(f"filters without a single weight left: {dead.sum()} of 12")

# %% [markdown]
# Both layers lose most of their weights; the filters lose less. Two things work together here. A filter weight takes part in sixteen
# outputs of every image, so its noise does sixteen times the damage, while the KL charges for it once. And
# whatever dies in the filters takes weights of the next layer along: behind a filter that is gone, all channels are constant, and the
# 16·10 dense weights that read them have nothing left to say. It is a tendency, not a law. In the published LeNet-5 the first convolution loses least
# (67 %), but the second one (98 %) loses more than the last dense layer (95 %).
#
# Look at the filters, too. What is left of one is a handful of pixels. And some filters are wholly gone. Those are the only zeros in this notebook
# that make the network faster without any special code: the filter can be cut out, and its inputs in the dense layer with it.
#
# Slide the window over a digit yourself. (Without a running kernel you see one position of the slider.)

# %%
from ipywidgets import IntSlider


# %%
@slide(stop=IntSlider(min=0, max=35, value=14, description="window"))
def show_window(stop):
    """A window, its row, and the edge filter's answer."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
    left.imshow(images[0, :, :, 0], cmap="Greys")
    left.add_patch(
        Rectangle((stop % 6 - 0.5, stop // 6 - 0.5), 3, 3, fill=False, edgecolor=COLOURS["test"], linewidth=3)
    )
    row = im2col(images[:1], 3, 3)[stop]
    right.bar(range(9), row, color=COLOURS["train"])
    right.set(ylim=(0, 1), xlabel="place in the row", title=f"row · edge filter = {row @ edges.ravel():.2f}")


# %% [markdown]
# ## The same with the package
#
# `VariationalConv2d` takes images channels first, as PyTorch does, and keeps `theta` as (height, width, channels in, channels out). With little noise and no
# pruning it must give our outputs.

# %%
import svd_numpy as svd

colour_images, filters = rng.normal(size=(2, 6, 7, 3)), rng.normal(size=(3, 2, 3, 4))
layers = svd.VariationalConv2d(3, 4, (3, 2)), svd.Flatten(), svd.Dense(96, 96)
model = svd.Sequential(*layers, input_shape=(3, 6, 7), backend="numpy", dtype="float64")
model.parameters["conv1.theta"][...] = filters
model.parameters["dense1.theta"][...] = np.eye(96)  # passes the outputs of the filters on
package = model.predict(colour_images.transpose(0, 3, 1, 2)).reshape(2, 4, 6, 4)
print("largest difference:", np.abs(package - conv(colour_images, filters)).max())
assert np.allclose(package, conv(colour_images, filters))

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Give `conv` a stride: windows start at every second pixel only. (Take every second window of `sliding_window_view`.) Which two lines change?
#
# **Exercise 2.** Give it padding: a border of $q$ zeros, so that 3×3 windows keep the size of the image. What changes in the backward pass?
#
# **Exercise 3.** A 1×1 convolution: what is im2col then, and what is the layer?
#
# **Exercise 4.** Two 3×3 layers, one after the other, see as much of the image as one 5×5 layer. Compare their weights for 20 channels throughout, and the
# size of their im2col matrices on 28×28 images.
#
# **Exercise 5.** Average pooling takes the mean of an output over all positions. Compare the spread of that mean when the filter is drawn and when the outputs are. Which noise
# would pooling let you feel?
#
# **Exercise 6.** Cut the dead filters out of the trained network, for good: with their channels in the dense layer, and without changing any of the `logits`. (Mind the
# biases: is a dead filter's output 0? The dense layer's 192 inputs are 16 positions times 12 channels.)


# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. Take every second window; the reshape must know the new size.
def conv_stride(images, theta, stride):
    """Windows start at multiples of the stride."""
    kh, kw, _, n_out = theta.shape
    windows = np.lib.stride_tricks.sliding_window_view(images, (kh, kw), axis=(1, 2))[:, ::stride, ::stride]
    rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, theta.size // n_out)
    return (rows @ theta.reshape(-1, n_out)).reshape(*windows.shape[:3], n_out)


print(np.allclose(conv_stride(colour_images, filters, 2), conv(colour_images, filters)[:, ::2, ::2]))

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. Pad, then convolve; backwards, col2im gives the gradient of the padded image, and its border is cut off.
padded = np.pad(images[:1], ((0, 0), (1, 1), (1, 1), (0, 0)))
print(
    conv(padded, rng.normal(size=(3, 3, 1, 2))).shape,
    "and back:",
    col2im(np.ones((64, 9)), padded.shape, 3, 3)[:, 1:-1, 1:-1].shape,
)

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. im2col is a reshape: the pixels are the rows. The layer is a dense layer on channels, applied to each pixel alone.
print(np.array_equal(im2col(colour_images, 1, 1), colour_images.reshape(-1, 3)))

# %% jupyter={"source_hidden": true} tags=["solution"]
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

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 5. Noise of its own at each of 36 positions averages out; that of the filter is the same everywhere and stays.
cols, draws = im2col(images[:1], 3, 3), 4000
theta, sigma = edges.reshape(9, 1), np.full((9, 1), 0.3)
by_filter = [(cols @ (theta + sigma * rng.standard_normal(theta.shape))).mean() for _ in range(draws)]
by_output = ((cols @ theta)[:, 0] + np.sqrt(cols**2 @ sigma**2)[:, 0] * rng.standard_normal((draws, 36))).mean(axis=1)
print(f"spread of the mean over positions: filter drawn {np.std(by_filter):.3f}, outputs drawn {np.std(by_output):.3f}")
assert np.std(by_filter) > 3 * np.std(by_output)
# So a network with pooling trains under less noise than its posterior has: sampled weights would disturb it more.

# %% jupyter={"source_hidden": true} tags=["solution"]
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

# %% [markdown]
# ## In practice
#
# Write the matrix product first and trust it; make it fast later, and test the fast one against it. Count memory before you choose a batch size. Expect less sparsity
# from filters than from dense layers, and more effect on speed: a filter weight is multiplied at every position. Whole filters can be cut out of the network, with
# the channels that they feed; single zeros in a filter save nothing without special code.
#
# ## Further reading
#
# - Chellapilla, Puri, Simard: [High Performance Convolutional Neural Networks for Document Processing](https://inria.hal.science/inria-00112631), 2006: convolution as
#   a matrix product.
# - Dumoulin, Visin: [A guide to convolution arithmetic for deep learning](https://arxiv.org/abs/1603.07285), 2016.
# - Molchanov, Ashukha, Vetrov: [Variational Dropout Sparsifies Deep Neural Networks](https://arxiv.org/abs/1701.05369), 2017, section 4.3:
#   convolutional layers.
