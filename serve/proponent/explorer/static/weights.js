/** What the words of a text carry of an influence. Pure. */

const STEPS = 4;
const NAMED = 3;

/**
 * @typedef {object} Weight
 * @property {number} start First character, in code points.
 * @property {number} end The character behind the last one.
 * @property {number} weight What the influence loses without the word.
 */

/**
 * A text cut at its words; strengths are relative to its largest weight.
 * @param {string} text @param {Weight[]} words
 * @returns {{text: string, weight: number, step: number}[]} Step: 1..4, negative for a negative weight; 0 where there is no mark.
 */
export function parts(text, words) {
  const characters = Array.from(text);
  const largest = Math.max(0, ...words.map(({ weight }) => Math.abs(weight ?? 0)));
  const cut = (start, end) => characters.slice(start, end).join("");
  const found = [];
  let place = 0;
  for (const { start, end, weight } of largest ? words : []) {
    found.push({ text: cut(place, start), weight: 0, step: 0 });
    found.push({ text: cut(start, end), weight, step: Math.sign(weight) * Math.round((STEPS * Math.abs(weight)) / largest) });
    place = end;
  }
  return [...found, { text: cut(place), weight: 0, step: 0 }].filter((part) => part.text);
}

/** @param {string} text @param {Weight[]} words The marked words of the largest weights, largest first. */
export const strongest = (text, words) =>
  parts(text, words)
    .filter(({ step }) => step)
    .sort((one, other) => Math.abs(other.weight) - Math.abs(one.weight))
    .slice(0, NAMED);

/** @param {Weight[][]} sides The words of one text in several pairs. @returns {Weight[]} With the sums of their weights. */
export function together(sides) {
  const sums = new Map();
  for (const { start, end, weight } of sides.flat()) {
    const key = `${start} ${end}`;
    sums.set(key, { start, end, weight: (sums.get(key)?.weight ?? 0) + (weight ?? 0) });
  }
  return [...sums.values()];
}
