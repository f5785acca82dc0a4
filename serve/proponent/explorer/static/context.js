/** What every view is given. */
import { createContext } from "./vendor/preact.js";

/**
 * @typedef {object} AppState
 * @property {any} model GetModelResponse of the chosen model, with name and ready.
 * @property {import("./route.js").Route} route
 * @property {(changes: Record<string, string|string[]|null|undefined>, options?: {replace?: boolean, view?: string}) => void} update
 *   Changes keys of the address, and the view where one is named.
 * @property {number} generation Grows when everything is to be asked anew.
 * @property {() => void} refresh Asks everything anew.
 */

/** @type {import("./vendor/preact.js").Context<AppState>} */
export const App = createContext({ generation: 0 });
