/* Reading the numbers that Python wrote. Nothing here touches the page. */

/** Reads bytes from the first on: take(count) gives so many of them, distance() the next number of one byte or more. */
function reader(bytes) {
  let at = 0;
  const take = (count) => bytes.slice(at, (at += count));
  const distance = () => {
    // seven bits a byte, the lowest first; the top bit says that more follow
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
  };
  return { take, distance };
}
