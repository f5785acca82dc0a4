/** A PNG file of grey or RGB pixels: what browsers write themselves always has an alpha channel. */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const COLOUR_TYPES = { L: 0, RGB: 2 };

/**
 * @param {Uint8ClampedArray} pixels RGBA, row by row; alpha is not looked at.
 * @param {number} width @param {number} height @param {"L"|"RGB"} mode
 * @returns {Promise<Uint8Array>}
 */
export async function encodePng(pixels, width, height, mode) {
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, COLOUR_TYPES[mode]);
  const rows = await deflated(scanlines(pixels, width, height, mode));
  const parts = [SIGNATURE, chunk("IHDR", new Uint8Array(header.buffer)), chunk("IDAT", rows), chunk("IEND", [])];
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** Rows of samples, each after the byte of its filter (none). */
function scanlines(pixels, width, height, mode) {
  const samples = mode === "L" ? 1 : 3;
  const lines = new Uint8Array(height * (1 + samples * width));
  for (let row = 0, at = 0; row < height; row += 1) {
    at += 1;
    for (let column = 0; column < width; column += 1, at += samples) {
      const [red, green, blue] = pixels.subarray(4 * (row * width + column));
      lines.set(mode === "L" ? [luma(red, green, blue)] : [red, green, blue], at);
    }
  }
  return lines;
}

/** ITU-R 601-2, as Pillow converts to grey. */
const luma = (red, green, blue) => (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;

const deflated = async (bytes) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer());

function chunk(name, content) {
  const body = [...new TextEncoder().encode(name), ...content];
  return [...word(content.length), ...body, ...word(crc32(body))];
}

const word = (value) => [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
