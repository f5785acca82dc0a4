/** The bearer token: kept for as long as the tab is open, and sent to this server alone. */

const KEY = "proponent.token";

/** @returns {string} The token, or "" where none was entered. */
export function token() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** @param {string} value An empty text forgets the token. */
export function setToken(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}
