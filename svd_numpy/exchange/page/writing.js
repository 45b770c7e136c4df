/* The page: a text that grows, the temperature, and the units behind it. */

const COLUMNS = 60; // tokens that the picture of the units goes back
const CANDIDATES = 8; // likeliest next tokens that are shown
const PAUSE = 50; // milliseconds between two tokens
const AT_ONCE = 300; // tokens without a pause, where no motion is wanted
const MOST = 5000; // tokens of a text

/** All that changes. */
const state = { net: null, words: false, text: [], seen: [], outputs: null, round: 0 };

const visible = (token) => ({ " ": "␣", "\n": "↵" })[token] ?? token;
const temperature = () => Number(element("temperature").value);

/** Read a token, and keep what the units made of it. */
function read(token) {
  state.outputs = step(state.net, token);
  state.text.push(state.net.vocabulary[token]);
  state.seen.push({ token, h: recurrentLayers().map((layer) => layer.h.slice()) });
  if (state.seen.length > COLUMNS) state.seen.shift();
}

function recurrentLayers() {
  return state.net.layers.filter((layer) => layer.kind === "lstm" || layer.kind === "gru");
}

/** Begin anew with the reader's words. */
function restart() {
  state.round++;
  reset(state.net);
  [state.text, state.seen] = [[], []];
  const { known, unknown, words } = tokensOf(state.net, element("prompt").value);
  state.words = words;
  element("unknown").textContent = unknown.length
    ? `It does not know ${[...new Set(unknown)].map((part) => `“${part}”`).join(", ")}: left out.`
    : "";
  const first = state.net.padding === 0 ? 1 : 0;
  for (const token of known.length ? known : [first]) read(token);
  show();
}

/** Write one token. */
function writeOne() {
  read(pick(sharesAt(state.outputs, temperature()), Math.random()));
}

/** Write until it is stopped. */
async function write() {
  const round = ++state.round;
  element("write").textContent = "Stop";
  for (let count = 1; round === state.round && state.text.length < MOST; count++) {
    writeOne();
    if (!still.matches || count % AT_ONCE === 0) {
      show();
      if (still.matches) break;
      await new Promise((resume) => setTimeout(resume, PAUSE));
    }
  }
  if (round === state.round) stop();
}

function stop() {
  state.round++;
  element("write").textContent = "Write";
}

/** Show the text, the candidates and the units. */
function show() {
  const page = element("text");
  page.textContent = state.text.join(state.words ? " " : "");
  page.scrollTop = page.scrollHeight;
  const shares = sharesAt(state.outputs, temperature());
  const ranked = shares.map((share, token) => [share, token]).sort((a, b) => b[0] - a[0]);
  document.querySelectorAll("#bars .bar").forEach((bar, n) => {
    const [share, token] = ranked[n];
    bar.firstElementChild.textContent = visible(state.net.vocabulary[token]);
    bar.querySelector("i > i").style.width = `${100 * share}%`;
    bar.lastElementChild.textContent = percent(share, 0);
  });
  drawUnits(element("units"));
}

/** A row for each unit, a column for each token: how far the unit is from 0, and on which side. */
function drawUnits(canvas) {
  const layers = recurrentLayers();
  const count = layers.reduce((sum, layer) => sum + layer.units, 0);
  const cell = Math.max(3, Math.min(14, Math.floor(420 / count)));
  const gap = 12; // between layers
  const height = count * cell + gap * layers.length + 18;
  const [context, width] = sharp(canvas, height);
  const across = width / COLUMNS;
  const [plus, minus, ink, line] = ["plus", "minus", "ink", "line"].map(colour);
  context.font = "12px ui-monospace, monospace";
  context.textAlign = "center";
  state.seen.forEach(({ token, h }, column) => {
    let top = 0;
    h.forEach((units) => {
      units.forEach((value, n) => {
        context.globalAlpha = Math.min(1, Math.abs(value));
        context.fillStyle = value > 0 ? plus : minus;
        context.fillRect(column * across, top + n * cell, across + 0.3, cell - 0.5);
      });
      top += units.length * cell + gap;
    });
    context.globalAlpha = 1;
    context.fillStyle = ink;
    if (!state.words) context.fillText(visible(state.net.vocabulary[token]), (column + 0.5) * across, height - 4);
  });
  context.fillStyle = line;
  layers.slice(1).reduce((top, _, n) => {
    const at = top + layers[n].units * cell + gap;
    context.fillRect(0, at - gap / 2, width, 1);
    return at;
  }, 0);
  canvas.setAttribute("aria-label", `${count} units over the last ${state.seen.length} tokens`);
}

/** One row for each of the likeliest tokens. */
function makeBars(count) {
  for (let n = 0; n < count; n++) {
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.setAttribute("role", "listitem");
    bar.innerHTML = `<span></span><i aria-hidden="true"><i></i></i><span></span>`;
    element("bars").append(bar);
  }
}

function sayTemperature() {
  element("temperature-now").textContent = temperature().toFixed(2);
}

async function begin() {
  const description = JSON.parse(element("description").textContent);
  state.net = readWriter(description, await unpack(element("numbers").textContent));
  const { total, weights, vocabulary, prompt } = description;
  const before = total ? `It began with ${thousands(total)} weights. Sparse Variational Dropout left ` : "It has ";
  const ratio = total ? `, 1 in ${Math.round(total / Math.max(1, weights))}` : "";
  element("intro").textContent =
    `${before}${thousands(weights)}${total ? "" : " weights"}${ratio}, and all of them are on this page. ` +
    `It knows ${vocabulary.length} tokens and nothing else: it guesses the next one, reads its own guess, and goes on.`;
  element("prompt").value = prompt;
  makeBars(Math.min(CANDIDATES, vocabulary.length));
  element("write").addEventListener("click", () => (element("write").textContent === "Stop" ? stop() : write()));
  element("restart").addEventListener("click", () => {
    stop();
    restart();
  });
  element("temperature").addEventListener("input", () => {
    sayTemperature();
    show();
  });
  window.addEventListener("resize", show);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  sayTemperature();
  restart();
  document.body.dataset.ready = "yes"; // for those who drive this page
}

begin().catch((error) => {
  element("intro").textContent = `This browser could not read the network (${error.message}); a newer one can.`;
  throw error;
});
