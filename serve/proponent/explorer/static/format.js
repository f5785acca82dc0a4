/** Numbers, shares, sizes and dates as text. Pure. */

export const MINUS = "\u2212";
const SPACE = "\u00a0";

/** @param {number} value @param {number} decimals @returns {string} Digits with the typographic minus. */
export function fixed(value, decimals) {
  const text = Math.abs(value).toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  return value < 0 && Number(value.toFixed(decimals)) !== 0 ? MINUS + text : text;
}

/** @param {number} value A whole number. */
export const count = (value) => fixed(value, 0);

/** @param {number} number @param {string} singular @param {string} [plural] */
export const counted = (number, singular, plural = `${singular}s`) => `${count(number)} ${number === 1 ? singular : plural}`;

/** @param {number} value Any size; a few digits that count. */
export function figure(value, digits = 3) {
  if (!Number.isFinite(value)) return "unknown";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return scientific(value, digits);
  return fixed(value, Math.min(decimalsFor(size, digits), 8)).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

/** @param {number} largest @param {number} digits @returns {number} Decimals that show as many digits of the largest. */
export function decimalsFor(largest, digits = 4) {
  return largest === 0 ? 0 : Math.max(0, digits - 1 - Math.floor(Math.log10(largest)));
}

/**
 * Signed scores that stand below each other: as many decimals for all as the largest needs.
 * @param {number} value @param {number} largest
 */
export function score(value, largest) {
  const sign = value < 0 ? MINUS : "+";
  if (largest !== 0 && (largest < 1e-4 || largest >= 1e7)) return sign + scientific(Math.abs(value), 4);
  return sign + fixed(Math.abs(value), decimalsFor(largest));
}

function scientific(value, digits) {
  const [mantissa, exponent] = Math.abs(value).toExponential(digits - 1).split("e");
  return `${value < 0 ? MINUS : ""}${mantissa}e${exponent.replace("-", MINUS).replace("+", "")}`;
}

/** @param {number} share 0..1 @param {number} [decimals] */
export function percent(share, decimals = 1) {
  const smallest = 10 ** -decimals;
  const value = share * 100;
  if (value > 0 && value < smallest / 2) return `<${SPACE}${fixed(smallest, decimals)}${SPACE}%`;
  if (value < 100 && value > 100 - smallest / 2) return `>${SPACE}${fixed(100 - smallest, decimals)}${SPACE}%`;
  return `${fixed(value, decimals)}${SPACE}%`;
}

/**
 * Two shares with as many decimals as it takes to tell them apart, at most four.
 * @param {number} first @param {number} second @returns {[string, string]}
 */
export function percents(first, second) {
  const decimals = [1, 2, 3, 4].find((n) => percent(first, n) !== percent(second, n)) ?? 1;
  return [percent(first, decimals), percent(second, decimals)];
}

/** @param {number} change Of shares, -1..1: in percentage points. */
export function points(change, decimals = 1) {
  const rounded = Number((change * 100).toFixed(decimals));
  return rounded === 0 ? fixed(0, decimals) : `${rounded > 0 ? "+" : ""}${fixed(rounded, decimals)}`;
}

/** @param {number} bytes */
export function size(bytes) {
  const [value, unit] = bytes < 1000 ? [bytes, "bytes"] : bytes < 1e6 ? [bytes / 1e3, "kB"] : [bytes / 1e6, "MB"];
  return `${figure(value)}${SPACE}${unit}`;
}

/**
 * What tells ids apart stands at their end, in front of a file's suffix: that is what is kept where they are cut.
 * @param {string} id @returns {[string, string]} What may be cut, "" where the id is short, and what may not.
 */
export function headAndTail(id) {
  const { index } = id.match(/.{0,6}(\.\w{1,5})?$/s);
  return index > 3 ? [id.slice(0, index), id.slice(index)] : ["", id];
}
