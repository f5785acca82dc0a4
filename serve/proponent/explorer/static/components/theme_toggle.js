/** Light, dark, or as the system has it. */
import { useEffect, useState } from "../vendor/hooks.js";
import { html } from "../html.js";

const KEY = "proponent.theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const SIGNS = { system: "◐", light: "○", dark: "●" };

export function ThemeToggle() {
  const [theme, setTheme] = useState(() => localStorage.getItem(KEY) ?? "system");
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem(KEY, theme);
  }, [theme]);
  const next = () => setTheme(NEXT[theme]);
  return html`<button type="button" class="plain" onClick=${next} title=${`Colours: ${theme}. Change to ${NEXT[theme]}.`}>
    <span aria-hidden="true">${SIGNS[theme]}</span><span class="visually-hidden">Colours: ${theme}</span>
  </button>`;
}
