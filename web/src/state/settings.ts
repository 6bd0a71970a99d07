/** What a person likes, kept in the browser. */

import { computed, signal } from "@preact/signals";
import { KeyMap, parseOverrides } from "../core/keymap";

export interface Settings {
  readonly theme: "system" | "dark" | "light";
  readonly radiological: boolean;
  readonly smooth: boolean;
  readonly live: boolean;
  readonly runOnOpen: boolean;
  readonly nextAfterSubmit: boolean;
  readonly strategy: string;
  readonly model: string;
  readonly trainer: string;
  readonly brushMm: number;
  readonly opacity: number;
  readonly outline: boolean;
  readonly keyMap: string;
  /** The hints of a first visit were put away. */
  readonly welcomed: boolean;
}

const DEFAULTS: Settings = {
  theme: "system",
  radiological: true,
  smooth: false,
  live: true,
  runOnOpen: false,
  nextAfterSubmit: true,
  strategy: "",
  model: "",
  trainer: "",
  brushMm: 6,
  opacity: 0.5,
  outline: false,
  keyMap: "",
  welcomed: false,
};

const PLACE = "labelserver.settings";

function stored(): Settings {
  try {
    const parsed = JSON.parse(localStorage.getItem(PLACE) ?? "{}") as Partial<Settings>;
    const known = Object.entries(parsed).filter(([key, value]) => typeof value === typeof DEFAULTS[key as keyof Settings]);
    return { ...DEFAULTS, ...Object.fromEntries(known) };
  } catch {
    return DEFAULTS; // storage is switched off, or somebody else's; the page works without it
  }
}

export const settings = signal<Settings>(stored());

export function setSettings(changes: Partial<Settings>): void {
  settings.value = { ...settings.peek(), ...changes };
  try {
    localStorage.setItem(PLACE, JSON.stringify(settings.peek()));
  } catch {
    // nothing to keep it in; it holds until the page is closed
  }
}

export const keyMap = computed(() => {
  try {
    return new KeyMap(parseOverrides(settings.value.keyMap));
  } catch {
    return new KeyMap(); // the settings dialog has said what is wrong with it
  }
});

/** Give the document the theme that is chosen, or the system's. */
export function applyTheme(): void {
  const { theme } = settings.value;
  const light = theme === "light" || (theme === "system" && window.matchMedia("(prefers-color-scheme: light)").matches);
  document.documentElement.dataset["theme"] = light ? "light" : "dark";
}
