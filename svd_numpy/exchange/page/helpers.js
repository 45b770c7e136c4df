"use strict";

/* What every page of ours needs: unpacking its numbers, canvases in the colours of the style sheet, words for numbers. */

const element = (id) => document.getElementById(id);
const thousands = (number) => number.toLocaleString("en-GB");
const percent = (share, digits) => `${(100 * share).toFixed(digits)} %`;
const still = window.matchMedia("(prefers-reduced-motion: reduce)");
const pause = () => new Promise((resume) => setTimeout(resume));

/** Bytes from base64 text of zlib-compressed data. */
async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A colour of the style sheet. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** A canvas's context with this height, sharp on every screen; its unit is a CSS pixel. Returns [context, width]. */
function sharp(canvas, height) {
  const width = Math.round(canvas.clientWidth);
  const ratio = window.devicePixelRatio || 1;
  if (height) canvas.style.height = `${height}px`;
  canvas.width = width * ratio;
  canvas.height = (height || canvas.clientHeight) * ratio;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return [context, width];
}

/** Grey values, 0 (paper) to 1 (ink), as small squares. */
function drawSquares(context, values, columns, left, top, side, ink) {
  const cell = side / columns;
  context.fillStyle = ink;
  values.forEach((value, n) => {
    if (value <= 0) return;
    context.globalAlpha = Math.min(1, value);
    context.fillRect(left + (n % columns) * cell, top + Math.floor(n / columns) * cell, cell + 0.3, cell + 0.3);
  });
  context.globalAlpha = 1;
}
