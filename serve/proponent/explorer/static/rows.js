/** Texts and rows as people read them, and in what a row differs from the one that was asked about. Pure. */

/**
 * The values of a row: first those that differ from the row asked about, then the others.
 * @param {Record<string, any>} record Null is a missing value, and so is what one of the two rows lacks.
 * @param {Record<string, any>|null} asked
 * @param {string[]} columns The order within both parts; what it lacks follows.
 * @returns {{column: string, value: string, was: string|null}[]} Was: what the row asked about has there, where it differs.
 */
export function cells(record, asked, columns) {
  const given = new Set([...Object.keys(asked ?? {}), ...Object.keys(record)]);
  const order = [...new Set([...columns, ...given])].filter((name) => given.has(name));
  const found = order.map((column) => {
    const [value, other] = [record, asked ?? record].map((row) => (Object.hasOwn(row, column) ? row[column] : null));
    return { column, value: valueText(value), was: value === other ? null : valueText(other) };
  });
  return [...found.filter(({ was }) => was !== null), ...found.filter(({ was }) => was === null)];
}

/** @param {any} value @returns {string} */
export const valueText = (value) => (value === null ? "missing" : value === "" ? "empty" : String(value));

/** @param {string} text Untrusted. @returns {string} Nothing in it acts or hides: control characters and marks of direction as escapes. */
export const visible = (text) => text.replace(/[\p{C}\u2028\u2029]/gu, (each) => (each === "\n" || each === "\t" ? each : `\\u{${each.codePointAt(0).toString(16)}}`));

/** @param {any} example @returns {boolean} Whether it is a text or a row, and is shown. */
export const isWorded = ({ text, record }) => Boolean(text || record);

/** @param {any} example A text or a row. @returns {string} On one line. */
export const summary = ({ text, record }) => visible(text || cells(record, null, []).map(({ column, value }) => `${column} ${value}`).join(", "));
