/** Pictures: as bytes, as base64 and in links. */

/** Bytes of a picture that a link carries; browsers and chats shorten what is much longer. */
export const LINK_BYTES = 32 * 1024;

const kept = new Map();

/** @param {Uint8Array} bytes @returns {string} */
export function toBase64(bytes) {
  const pieces = [];
  for (let at = 0; at < bytes.length; at += 8192) pieces.push(String.fromCharCode(...bytes.subarray(at, at + 8192)));
  return btoa(pieces.join(""));
}

/** @param {string} text Base64, plain or URL-safe. @returns {Uint8Array} Empty where it is not base64. */
export function fromBase64(text) {
  try {
    return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (character) => character.charCodeAt(0));
  } catch {
    return new Uint8Array();
  }
}

/** @param {string} text Base64. @returns {string} The same for addresses. */
export const urlSafe = (text) => text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");

/**
 * The keys of the address for a chosen picture: itself, or the fingerprint of one that stays in this tab.
 * @param {Uint8Array} bytes
 */
export function pictureParams(bytes) {
  if (bytes.length <= LINK_BYTES) return { sample: null, upload: null, image: urlSafe(toBase64(bytes)) };
  const upload = fingerprint(bytes);
  kept.set(upload, bytes);
  return { sample: null, image: null, upload };
}

/** @param {string} upload @returns {Uint8Array|null} Null where it was chosen in another tab, or before a reload. */
export const keptPicture = (upload) => kept.get(upload) ?? null;

/** @param {string} upload @returns {number} Bytes of the picture that a link speaks of. */
export const uploadSize = (upload) => Number(upload.split("-")[0]);

/** Length and FNV-1a: tells whether the same file was chosen again, and needs no secure context. */
function fingerprint(bytes) {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return `${bytes.length}-${hash.toString(16)}`;
}

/** @param {Uint8Array} bytes @returns {string} The type that the first bytes tell; a picture shows by it. */
export function mediaType(bytes) {
  return bytes[0] === 0xff && bytes[1] === 0xd8 ? "image/jpeg" : "image/png";
}
