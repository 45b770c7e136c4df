/* A sparse network in plain JavaScript: reading it, cutting it, running it, sampling it, and turning strokes into the
   pixels that it was trained on. Nothing here touches the page. Images are row by row, channels last. */

/** Layers with their weights, and the test digits, from the description and the bytes that Python wrote. */
function readNetwork(description, bytes) {
  const { take, distance } = reader(bytes);
  const signed = (count) => new Int8Array(take(count).buffer);
  const floats = (count) => Float64Array.from(new Float32Array(take(4 * count).buffer));
  const layers = description.layers.map((layer) => {
    if (layer.kind === "scale") return { ...layer, factor: floats(layer.features), shift: floats(layer.features) };
    if (!("count" in layer)) return layer;
    const place = new Int32Array(layer.count);
    for (let n = 0, last = -1; n < layer.count; n++) place[n] = last += distance();
    const value = Float64Array.from(signed(layer.count), (whole) => whole * layer.scale);
    const logAlpha = Float64Array.from(signed(layer.count), (whole) => whole / description.alpha_steps);
    return { ...layer, place, value, logAlpha, bias: floats(layer.outputs) };
  });
  const size = 28 * 28;
  const mean = description.has_mean ? take(size) : new Uint8Array(size);
  const digits = Array.from({ length: description.digits }, () => take(size));
  return { ...description, layers, mean, digits, labels: take(description.digits) };
}

/** The order in which weights go if they go by their size: [layer, number of the weight], largest first. */
function bySize(net) {
  const order = [];
  net.layers.forEach((layer, l) => layer.value?.forEach((value, n) => order.push([l, n, Math.abs(value)])));
  return order.sort((a, b) => b[2] - a[2] || a[0] - b[0] || a[1] - b[1]);
}

/** Keep the weights whose log alpha is at most the threshold. */
function cutByAlpha(net, threshold) {
  return cut(net, (layer, n) => layer.logAlpha[n] <= threshold);
}

/** Keep the `count` largest weights. */
function cutBySize(net, order, count) {
  const kept = new Map();
  for (const [l, n] of order.slice(0, count)) {
    if (!kept.has(net.layers[l])) kept.set(net.layers[l], new Set());
    kept.get(net.layers[l]).add(n);
  }
  return cut(net, (layer, n) => kept.get(layer)?.has(n));
}

/** A network with only the weights for which `keeps(layer, n)`; it knows how many these are, and how many bytes. */
function cut(net, keeps) {
  let weights = 0;
  let units = 0;
  const layers = net.layers.map((layer) => {
    if (!layer.value) return layer;
    const kept = [];
    for (let n = 0; n < layer.value.length; n++) if (keeps(layer, n)) kept.push(n);
    const to = Int32Array.from(kept, (n) => layer.place[n] % layer.outputs);
    const from = Int32Array.from(kept, (n) => inputOf(layer, layer.place[n]));
    const live = new Uint8Array(layer.outputs);
    for (const unit of to) live[unit] = 1;
    weights += kept.length;
    units += live.reduce((sum, one) => sum + one, 0);
    const [value, logAlpha] = [layer.value, layer.logAlpha].map((all) => Float64Array.from(kept, (n) => all[n]));
    return { ...layer, from, to, value, logAlpha, live };
  });
  return { ...net, layers, weights, units, bytes: 2 * (weights + units) };
}

/** The input that a weight reads; in a convolution in groups, its place counts the channels of its own group only. */
function inputOf(layer, place) {
  const own = Math.floor(place / layer.outputs);
  if (layer.kind === "dense") return own;
  const channels = layer.in_shape[2] / layer.groups;
  const group = Math.floor(((place % layer.outputs) * layer.groups) / layer.outputs);
  return (Math.floor(own / channels) * layer.groups + group) * channels + (own % channels);
}

/** What a layer makes of its inputs. */
function apply(layer, x) {
  if (layer.kind === "relu") return x.map((value) => Math.max(value, 0));
  if (layer.kind === "scale") return x.map((value, n) => scaled(layer, value, n % layer.features));
  if (layer.kind === "max" || layer.kind === "avg") return pool(layer, x);
  return layer.kind === "dense" ? dense(layer, x) : convolve(layer, x);
}

function scaled({ factor, shift }, value, feature) {
  return value * factor[feature] + shift[feature];
}

function dense({ from, to, value, bias }, x) {
  const y = bias.slice();
  for (let n = 0; n < value.length; n++) y[to[n]] += value[n] * x[from[n]];
  return y;
}

/** First and last position at which a window's tap lies inside the image. */
function inside(tap, size, count, stride, padding, dilation) {
  const start = tap * dilation - padding; // where the tap lies at position 0
  return [Math.max(0, Math.ceil(-start / stride)), Math.min(count - 1, Math.floor((size - 1 - start) / stride)), start];
}

function convolve(layer, x) {
  const { from, to, value, bias, outputs, stride, padding, dilation, kernel } = layer;
  const [height, width, channels] = layer.in_shape;
  const [down, across] = layer.out_shape;
  const y = new Float64Array(down * across * outputs);
  for (let p = 0; p < y.length; p += outputs) y.set(bias, p);
  for (let n = 0; n < value.length; n++) {
    const channel = from[n] % channels; // a tap is (row * columns + column) * channels + channel
    const column = Math.floor(from[n] / channels) % kernel[1];
    const row = Math.floor(from[n] / channels / kernel[1]);
    const [top, bottom, above] = inside(row, height, down, stride[0], padding[0], dilation[0]);
    const [left, right, before] = inside(column, width, across, stride[1], padding[1], dilation[1]);
    for (let oy = top; oy <= bottom; oy++) {
      let input = ((oy * stride[0] + above) * width + left * stride[1] + before) * channels + channel;
      let output = (oy * across + left) * outputs + to[n];
      for (let ox = left; ox <= right; ox++) {
        y[output] += value[n] * x[input];
        input += stride[1] * channels;
        output += outputs;
      }
    }
  }
  return y;
}

function pool(layer, x) {
  const { stride, padding, kernel } = layer;
  const [height, width, channels] = layer.in_shape;
  const [down, across] = layer.out_shape;
  const mean = layer.kind === "avg";
  const y = new Float64Array(down * across * channels).fill(mean ? 0 : -Infinity);
  for (let row = 0; row < kernel[0]; row++) {
    const [top, bottom, above] = inside(row, height, down, stride[0], padding[0], 1);
    for (let column = 0; column < kernel[1]; column++) {
      const [left, right, before] = inside(column, width, across, stride[1], padding[1], 1);
      for (let oy = top; oy <= bottom; oy++) {
        for (let ox = left; ox <= right; ox++) {
          const input = ((oy * stride[0] + above) * width + ox * stride[1] + before) * channels;
          const output = (oy * across + ox) * channels;
          for (let c = 0; c < channels; c++) {
            const value = x[input + c];
            if (mean) y[output + c] += value / (kernel[0] * kernel[1]);
            else if (value > y[output + c]) y[output + c] = value;
          }
        }
      }
    }
  }
  return y;
}

/** The input that 28 x 28 pixels are, and what each layer makes of it, one array each. */
function activations(net, pixels) {
  const found = [Float64Array.from(pixels, (pixel, n) => (pixel - net.mean[n]) / 255)];
  for (const layer of net.layers) found.push(apply(layer, found[found.length - 1]));
  return found;
}

/** Probability of each class. */
function probabilities(net, pixels) {
  return softmax(activations(net, pixels).pop());
}

function softmax(outputs) {
  const most = Math.max(...outputs);
  const powers = Array.from(outputs, (output) => Math.exp(output - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** Number of the largest entry. */
function largest(numbers) {
  return numbers.reduce((best, number, n) => (number > numbers[best] ? n : best), 0);
}

/** How many of the test digits a network gets wrong. */
function wrong(net) {
  return net.digits.filter((pixels, n) => largest(activations(net, pixels).pop()) !== net.labels[n]).length;
}

/** Uniform numbers in [0, 1): a small generator (mulberry32), so that the same seed gives the same figures. */
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** `count` networks drawn from the posterior: each weight is value * (1 + sqrt(alpha) * noise). */
function sampled(net, count, seed) {
  const uniform = generator(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const noisy = (layer) => layer.value.map((value, n) => value * (1 + Math.exp(layer.logAlpha[n] / 2) * normal()));
  return Array.from({ length: count }, () => ({
    ...net,
    layers: net.layers.map((layer) => (layer.value && layer.noise ? { ...layer, value: noisy(layer) } : layer)),
  }));
}

/** Entropy of probabilities, in nats. */
function entropy(shares) {
  return -shares.reduce((sum, share) => sum + (share > 0 ? share * Math.log(share) : 0), 0);
}

/** The mean of several networks' probabilities for one image, its entropy, and how much of it is disagreement. */
function opinion(nets, pixels) {
  const each = nets.map((net) => probabilities(net, pixels));
  const mean = each[0].map((_, n) => each.reduce((sum, own) => sum + own[n], 0) / each.length);
  const total = entropy(mean);
  const votes = mean.map((_, n) => each.filter((own) => largest(own) === n).length);
  return { mean, votes, total, disagreement: total - each.reduce((sum, own) => sum + entropy(own), 0) / each.length };
}

const SIDE = 28; // of an image
const BOX = 20; // into which a digit is scaled
const CENTRE = 14.5; // where its centre of mass lies in the images of MNIST
const PEN = 1.3; // radius of the pen, in pixels

/** Pixels (28 x 28, 0 to 255) of strokes, scaled and centred as the digits of MNIST are.
 *
 *  A stroke is a list of points [x, y], in a square of side 1 or in any other unit in which 1 is the size of the pad.
 */
function pixelsOf(strokes) {
  const points = strokes.flat();
  if (!points.length) return new Uint8Array(SIDE * SIDE);
  const [left, top] = [0, 1].map((axis) => Math.min(...points.map((point) => point[axis])));
  const [right, bottom] = [0, 1].map((axis) => Math.max(...points.map((point) => point[axis])));
  const scale = (BOX - 2 * PEN - 1) / Math.max(right - left, bottom - top, 0.15); // a dot stays a dot
  const middle = [(left + right) / 2, (top + bottom) / 2];
  const placed = (shift) =>
    strokes.map((stroke) => stroke.map((point) => point.map((at, axis) => (at - middle[axis]) * scale + shift[axis])));
  const first = inked(placed([CENTRE, CENTRE]));
  let [mass, x, y] = [0, 0, 0];
  first.forEach((ink, n) => {
    mass += ink;
    x += ink * ((n % SIDE) + 0.5);
    y += ink * (Math.floor(n / SIDE) + 0.5);
  });
  return inked(placed([2 * CENTRE - x / mass, 2 * CENTRE - y / mass]));
}

/** Pixels of strokes in pixels: black within the pen's radius, grey over one pixel at its edge. */
function inked(strokes) {
  const pixels = new Uint8Array(SIDE * SIDE);
  for (const stroke of strokes) {
    stroke.forEach((end, n) => {
      const start = stroke[Math.max(0, n - 1)];
      const reach = PEN + 0.5;
      const [x0, x1] = [Math.min(start[0], end[0]) - reach, Math.max(start[0], end[0]) + reach];
      const [y0, y1] = [Math.min(start[1], end[1]) - reach, Math.max(start[1], end[1]) + reach];
      for (let row = Math.max(0, Math.floor(y0)); row < Math.min(SIDE, y1); row++) {
        for (let column = Math.max(0, Math.floor(x0)); column < Math.min(SIDE, x1); column++) {
          const away = distanceTo(start, end, column + 0.5, row + 0.5);
          const ink = Math.round(255 * Math.min(1, Math.max(0, PEN + 0.5 - away)));
          pixels[row * SIDE + column] = Math.max(pixels[row * SIDE + column], ink);
        }
      }
    });
  }
  return pixels;
}

/** Distance of the point (x, y) from a line between two points. */
function distanceTo(start, end, x, y) {
  const [dx, dy] = [end[0] - start[0], end[1] - start[1]];
  const length = dx * dx + dy * dy;
  const along = length ? Math.min(1, Math.max(0, ((x - start[0]) * dx + (y - start[1]) * dy) / length)) : 0;
  return Math.hypot(x - start[0] - along * dx, y - start[1] - along * dy);
}
