/* Sparse Variational Dropout in one file: svd_numpy/micro/sparse_vd.py in JavaScript, with the same noise and the same
   losses. Matrices are Float64Arrays, row by row. Nothing here touches the page. */

const K1 = 0.63576; // constants of the KL (Molchanov et al. 2017, eq. 14)
const K2 = 1.8732;
const K3 = 1.48695;
const THRESHOLD = 3; // on log alpha
const NAMES = ["theta", "logSigma2", "bias"];
const ORDER_LAYER = 1001; // counters of the noise that orders the examples, and of that which starts the weights
const START_LAYER = 1003;

/** The Philox4x32-10 hash of four words under the key [seed, 0]; the answer replaces the counter. */
function philox(counter, seed) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = [seed >>> 0, 0];
  for (let round = 0; round < 10; round++) {
    const low0 = Math.imul(c0, 0xd2511f53) >>> 0;
    const low1 = Math.imul(c2, 0xcd9e8d57) >>> 0;
    const high0 = highHalf(c0, 0xd2511f53);
    const high1 = highHalf(c2, 0xcd9e8d57);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  [counter[0], counter[1], counter[2], counter[3]] = [c0, c1, c2, c3];
}

/** The upper 32 of the 64 bits of a product of two 32-bit numbers. */
function highHalf(a, b) {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const other = aLow * bHigh + (middle % 65536);
  return aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(other / 65536);
}

/** Standard normals, rows x units: a pure function of seed, layer and step. */
function normals(seed, layer, step, rows, units) {
  const out = new Float64Array(rows * units);
  const counter = [0, 0, 0, 0];
  const groups = Math.ceil(units / 64);
  for (let row = 0; row < rows; row++) {
    for (let group = 0; group < groups; group++) {
      for (let k = 0; k < 16; k++) {
        [counter[0], counter[1], counter[2], counter[3]] = [16 * group + k, row, step, layer];
        philox(counter, seed);
        for (let pair = 0; pair < 2; pair++) {
          const radius = Math.sqrt(-2 * Math.log(((counter[2 * pair] >>> 8) + 1) / 2 ** 24));
          const angle = 2 * Math.PI * ((counter[2 * pair + 1] >>> 8) / 2 ** 24 - 0.5);
          const unit = 64 * group + 32 * pair + k;
          if (unit < units) out[row * units + unit] = radius * Math.sin(angle);
          if (unit + 16 < units) out[row * units + unit + 16] = radius * Math.cos(angle);
        }
      }
    }
  }
  return out;
}

/** The numbers 0 to count - 1 in an order of chance. */
function shuffled(count, seed, epoch) {
  const keys = normals(seed, ORDER_LAYER, epoch, 1, count);
  return Array.from(keys.keys()).sort((a, b) => keys[a] - keys[b] || a - b);
}

/** Layers that have learned nothing: theta as in He et al. 2015, hardly any noise, bias 0. */
function makeNet(sizes, seed) {
  return sizes.slice(1).map((outputs, number) => {
    const inputs = sizes[number];
    const theta = normals(seed, START_LAYER, number, inputs, outputs).map((z) => z * Math.sqrt(2 / inputs));
    return { inputs, outputs, theta, logSigma2: new Float64Array(theta.length).fill(-10), bias: new Float64Array(outputs) };
  });
}

/** The same shapes, filled with 0. */
function zerosLike(net) {
  return net.map((layer) => {
    const zeros = NAMES.map((name) => [name, new Float64Array(layer[name].length)]);
    return { inputs: layer.inputs, outputs: layer.outputs, ...Object.fromEntries(zeros) };
  });
}

/** Noisy logits of a batch of `rows` inputs, and what `backward` needs of each layer. */
function forward(net, inputs, rows, seed, step) {
  const tape = [];
  let x = inputs;
  net.forEach(({ inputs: I, outputs: O, theta, logSigma2, bias }, number) => {
    const sigma2 = logSigma2.map(Math.exp);
    const [y, std] = [new Float64Array(rows * O), new Float64Array(rows * O)];
    const noise = normals(seed, 2 * number, step, rows, O);
    for (let b = 0; b < rows; b++) {
      for (let i = 0; i < I; i++) {
        const value = x[b * I + i];
        if (value === 0) continue;
        for (let o = 0; o < O; o++) {
          y[b * O + o] += value * theta[i * O + o];
          std[b * O + o] += value * value * sigma2[i * O + o];
        }
      }
      for (let o = 0; o < O; o++) {
        std[b * O + o] = Math.sqrt(std[b * O + o]);
        y[b * O + o] += bias[o] + std[b * O + o] * noise[b * O + o];
      }
    }
    tape.push({ x, std, noise, sigma2 });
    x = number < net.length - 1 ? y.map((value) => Math.max(value, 0)) : y;
  });
  return { logits: x, tape };
}

/** Gradients of the NLL, given that for the logits: `forward` read from bottom to top. */
function backward(net, tape, dLogits, rows) {
  const gradients = zerosLike(net);
  let dy = dLogits;
  for (let number = net.length - 1; number >= 0; number--) {
    const { inputs: I, outputs: O, theta } = net[number];
    const { x, std, noise, sigma2 } = tape[number];
    const { theta: dTheta, logSigma2: dLogSigma2, bias: dBias } = gradients[number];
    const dVar = dy.map((value, n) => (value * noise[n]) / Math.max(2 * std[n], 1e-15));
    const dx = new Float64Array(rows * I);
    for (let b = 0; b < rows; b++) {
      for (let o = 0; o < O; o++) dBias[o] += dy[b * O + o];
      for (let i = 0; i < I; i++) {
        const value = x[b * I + i];
        if (value === 0) continue; // adds nothing to any gradient, and the ReLU before it passes nothing on
        let [bySum, byNoise] = [0, 0];
        for (let o = 0; o < O; o++) {
          dTheta[i * O + o] += value * dy[b * O + o];
          dLogSigma2[i * O + o] += value * value * dVar[b * O + o];
          bySum += dy[b * O + o] * theta[i * O + o];
          byNoise += dVar[b * O + o] * sigma2[i * O + o];
        }
        dx[b * I + i] = bySum + 2 * value * byNoise;
      }
    }
    for (let n = 0; n < sigma2.length; n++) dLogSigma2[n] *= sigma2[n];
    dy = dx;
  }
  return gradients;
}

/** Mean NLL in nats of the labels under softmax(logits), and its gradient. */
function crossEntropy(logits, labels, classes) {
  const rows = labels.length;
  const gradient = new Float64Array(logits.length);
  let loss = 0;
  for (let b = 0; b < rows; b++) {
    const row = logits.subarray(b * classes, (b + 1) * classes);
    const most = Math.max(...row);
    let total = 0;
    for (const value of row) total += Math.exp(value - most);
    row.forEach((value, c) => (gradient[b * classes + c] = Math.exp(value - most) / total / rows));
    gradient[b * classes + labels[b]] -= 1 / rows;
    loss -= (row[labels[b]] - most - Math.log(total)) / rows;
  }
  return [loss, gradient];
}

/** KL from the log-uniform prior in nats, s = theta^2 / sigma^2 = 1 / alpha being the signal-to-noise ratio. */
function klOf(s) {
  const t = Math.exp(-K2) * s ** K3;
  return 0.5 * Math.log1p(s) + (K1 * t) / (1 + t);
}

/** v = 2 dKL/ds: the pulls are v theta / sigma^2 on theta and -s v / 2 on log sigma^2. */
function slopeOf(s) {
  const t = Math.exp(-K2) * s ** K3;
  return 1 / (1 + s) + (2 * K1 * K3 * Math.exp(-K2) * s ** (K3 - 1)) / (1 + t) ** 2;
}

/** The loss of one batch in nats per example, and its gradient for every array. */
function lossAndGradients(net, x, labels, nTrain, klWeight, seed, step) {
  const { logits, tape } = forward(net, x, labels.length, seed, step);
  const [nll, dLogits] = crossEntropy(logits, labels, net[net.length - 1].outputs);
  const gradients = backward(net, tape, dLogits, labels.length);
  const scale = klWeight / nTrain;
  let kl = 0;
  net.forEach(({ theta, logSigma2 }, number) => {
    const { theta: dTheta, logSigma2: dLogSigma2 } = gradients[number];
    for (let n = 0; n < theta.length; n++) {
      const precision = Math.exp(-logSigma2[n]);
      const s = theta[n] * theta[n] * precision;
      const v = slopeOf(s);
      kl += klOf(s);
      dTheta[n] += scale * v * theta[n] * precision;
      dLogSigma2[n] -= 0.5 * scale * s * v;
    }
  });
  return [nll + scale * kl, gradients];
}

/** Move every array against its gradient, in place; steps count from 0. */
function adamStep(net, gradients, [firsts, seconds], lr, step) {
  const [first, second] = [1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)];
  net.forEach((layer, number) => {
    for (const name of NAMES) {
      const [w, g, m, v] = [layer, gradients[number], firsts[number], seconds[number]].map((part) => part[name]);
      for (let n = 0; n < w.length; n++) {
        m[n] += 0.1 * (g[n] - m[n]);
        v[n] += 0.001 * (g[n] * g[n] - v[n]);
        w[n] -= (lr * (m[n] / first)) / (Math.sqrt(v[n] / second) + 1e-8);
      }
    }
    layer.logSigma2.forEach((value, n, all) => (all[n] = Math.min(10, Math.max(-20, value))));
  });
}

/** Which weights of a layer survive, as 0 or 1. */
function kept({ theta, logSigma2 }) {
  return Uint8Array.from(theta, (value, n) => value * value >= Math.exp(logSigma2[n] - THRESHOLD));
}

/** Logits of `rows` inputs through only the means that a mask (per layer) keeps, without noise. */
function predict(net, masks, inputs, rows) {
  let x = inputs;
  net.forEach(({ inputs: I, outputs: O, theta, bias }, number) => {
    const weights = theta.map((value, n) => value * masks[number][n]);
    const y = new Float64Array(rows * O);
    for (let b = 0; b < rows; b++) {
      y.set(bias, b * O);
      for (let i = 0; i < I; i++) {
        const value = x[b * I + i];
        if (value <= 0 && number) continue; // the ReLU
        for (let o = 0; o < O; o++) y[b * O + o] += value * weights[i * O + o];
      }
    }
    x = y;
  });
  return x;
}

/** Share of rows whose largest logit is not that of their label. */
function errorOf(logits, labels) {
  const classes = logits.length / labels.length;
  let count = 0;
  labels.forEach((label, b) => {
    const row = logits.subarray(b * classes, (b + 1) * classes);
    count += row.indexOf(Math.max(...row)) !== label;
  });
  return count / labels.length;
}

/** A training run that goes forward one step at a time; `options`: beta, warmUp (epochs), lr, epochs, batch, seed. */
function makeTrainer(x, labels, sizes, options) {
  const net = makeNet(sizes, options.seed);
  return { x, labels, net, moments: [zerosLike(net), zerosLike(net)], step: 0, epoch: 0, at: 0, order: null, ...options };
}

/** One step; returns its loss. `epoch` counts the epochs that are finished. */
function trainStep(run) {
  const [count, features] = [run.labels.length, run.net[0].inputs];
  if (run.at === 0) run.order = shuffled(count, run.seed, run.epoch);
  const rows = run.order.slice(run.at, run.at + run.batch);
  const x = new Float64Array(rows.length * features);
  rows.forEach((row, b) => x.set(run.x.subarray(row * features, (row + 1) * features), b * features));
  const klWeight = run.beta * Math.min(1, run.warmUp ? run.epoch / run.warmUp : 1);
  const rate = run.lr * Math.min(1, 3 * (1 - run.epoch / run.epochs));
  const labels = rows.map((row) => run.labels[row]);
  const [loss, gradients] = lossAndGradients(run.net, x, labels, count, klWeight, run.seed, run.step);
  adamStep(run.net, gradients, run.moments, rate, run.step);
  run.step += 1;
  run.at += run.batch;
  if (run.at >= count) [run.at, run.epoch] = [0, run.epoch + 1];
  return loss;
}
