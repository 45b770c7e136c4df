/* Read the data, start the parts, and draw them anew when the window or the colours change. */

const play = {};

/** The arrays of the page by their names, from one row of bytes. */
function readArrays(description, bytes) {
  const kinds = { u1: Uint8Array, i1: Int8Array, f4: Float32Array };
  const data = { ...description };
  let at = 0;
  for (const [name, kind, shape] of description.arrays) {
    const count = shape.reduce((a, b) => a * b, 1);
    const size = count * kinds[kind].BYTES_PER_ELEMENT;
    data[name] = new kinds[kind](bytes.slice(at, at + size).buffer);
    at += size;
  }
  for (const name of ["logAlpha", "logSigma2", "theta"]) summed(data[name], data[name].length / data.epochs);
  return data;
}

async function begin() {
  startWeight(); // needs no data
  const data = readArrays(JSON.parse(element("description").textContent), await unpack(element("numbers").textContent));
  startEmpties(data);
  startPad(data);
  startTrain(data);
  startClinic(data);
  startPredictions(data);
  const redraw = oncePerFrame(() => {
    for (const part of [play.weight, play.empties, play.train, play.clinic, play.predictions]) part.draw();
  });
  window.addEventListener("resize", redraw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  play.data = data;
  document.body.dataset.ready = "yes"; // for those who drive this page
}

begin().catch((error) => {
  element("intro").textContent = `This browser could not start the page (${error.message}); a newer one can.`;
  throw error;
});
