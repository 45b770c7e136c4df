/* A recurrent network in plain JavaScript that reads one token at a time and keeps its state: reading it, its step, and
   the choice of the next token. Nothing here touches the page. */

/** Layers with their weights and states, from the description and the bytes that Python wrote. */
function readWriter(description, bytes) {
  const { take, distance } = reader(bytes);
  const matrix = ({ rows, scale }) => {
    const starts = [0];
    for (let row = 0; row < rows; row++) starts.push(starts[row] + distance());
    const columns = new Int32Array(starts[rows]);
    for (let row = 0; row < rows; row++) {
      for (let n = starts[row], last = -1; n < starts[row + 1]; n++) columns[n] = last += distance();
    }
    const values = Float64Array.from(new Int16Array(take(2 * columns.length).buffer), (value) => value * scale);
    return { starts, columns, values };
  };
  const layers = description.layers.map((layer) => {
    const [inputs, recurrent] = [matrix(layer.inputs), matrix(layer.recurrent)];
    return { ...layer, inputs, recurrent, bias: Float64Array.from(new Float32Array(take(4 * layer.biases).buffer)) };
  });
  return reset({ ...description, layers });
}

/** Put a network into the state in which a text begins. */
function reset(net) {
  for (const layer of net.layers) {
    layer.h = new Float64Array(layer.units);
    layer.c = new Float64Array(layer.units);
  }
  return net;
}

/** Add one row of a matrix, times a number, to y. */
function addRow({ starts, columns, values }, row, factor, y) {
  if (factor) for (let n = starts[row]; n < starts[row + 1]; n++) y[columns[n]] += factor * values[n];
}

const sigmoid = (a) => 0.5 + 0.5 * Math.tanh(0.5 * a);

/** Read a token and return the outputs, one for each token; padding changes nothing. */
function step(net, token) {
  if (token !== net.padding) {
    let x = null;
    for (const layer of net.layers) {
      const a = layer.bias.slice(0, layer.kind === "gru" ? 3 * layer.units : layer.biases);
      if (x === null) addRow(layer.inputs, token, 1, a);
      else x.forEach((value, row) => addRow(layer.inputs, row, value, a));
      if (layer.kind === "lstm") stepLstm(layer, a);
      else if (layer.kind === "gru") stepGru(layer, a);
      else layer.h = layer.relu ? a.map((value) => Math.max(value, 0)) : a;
      x = layer.h;
    }
  }
  return net.layers[net.layers.length - 1].h;
}

function stepLstm(layer, a) {
  const { units } = layer;
  layer.h.forEach((value, row) => addRow(layer.recurrent, row, value, a));
  const h = new Float64Array(units);
  for (let n = 0; n < units; n++) {
    const [i, f, o] = [a[n], a[units + n], a[3 * units + n]].map(sigmoid);
    layer.c[n] = f * layer.c[n] + i * Math.tanh(a[2 * units + n]);
    h[n] = o * Math.tanh(layer.c[n]);
  }
  layer.h = h;
}

function stepGru(layer, p) {
  const { units, bias } = layer;
  const q = new Float64Array(3 * units);
  layer.h.forEach((value, row) => addRow(layer.recurrent, row, value, q));
  layer.h = layer.h.map((before, n) => {
    const [r, z] = [p[n] + q[n], p[units + n] + q[units + n]].map(sigmoid);
    const candidate = Math.tanh(p[2 * units + n] + r * (q[2 * units + n] + bias[3 * units + n]));
    return (1 - z) * candidate + z * before;
  });
}

/** Probability of each token at a temperature; at 0 the likeliest has all of it. */
function sharesAt(outputs, temperature) {
  const most = Math.max(...outputs);
  const powers = Array.from(outputs, (output) =>
    temperature > 0 ? Math.exp((output - most) / temperature) : Number(output === most),
  );
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** The token that a uniform number in [0, 1) picks. */
function pick(shares, uniform) {
  let rest = uniform;
  for (let token = 0; token < shares.length; token++) {
    rest -= shares[token];
    if (rest < 0) return token;
  }
  return shares.lastIndexOf(Math.max(...shares)); // only rounding leads here
}

/** The tokens of a text, as numbers, and those that the network does not know. */
function tokensOf(net, text) {
  const words = net.vocabulary.some((token) => [...token].length > 1);
  const parts = words ? text.split(/\s+/).filter((word) => word) : [...text];
  const numbers = parts.map((part) => net.vocabulary.indexOf(part));
  return { known: numbers.filter((number) => number >= 0), unknown: parts.filter((_, n) => numbers[n] < 0), words };
}
