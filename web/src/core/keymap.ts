/** Keys and what they do. One table feeds the listener, the tooltips and the `?` sheet; people may override it by JSON. */

export interface Action {
  readonly id: string;
  readonly title: string;
  readonly group: "Move" | "Draw" | "Prompt" | "See" | "Work";
  readonly keys: readonly string[];
}

/** Combinations are written Ctrl+Shift+Key with the key as the keyboard reports it; letters in lower case. */
export const ACTIONS: readonly Action[] = [
  { id: "left", title: "Crosshair to the left", group: "Move", keys: ["ArrowLeft"] },
  { id: "right", title: "Crosshair to the right", group: "Move", keys: ["ArrowRight"] },
  { id: "up", title: "Crosshair up", group: "Move", keys: ["ArrowUp"] },
  { id: "down", title: "Crosshair down", group: "Move", keys: ["ArrowDown"] },
  { id: "slice-up", title: "Next slice of the pane", group: "Move", keys: ["PageUp"] },
  { id: "slice-down", title: "Previous slice of the pane", group: "Move", keys: ["PageDown"] },
  { id: "slice-up-10", title: "Ten slices on", group: "Move", keys: ["Shift+PageUp"] },
  { id: "slice-down-10", title: "Ten slices back", group: "Move", keys: ["Shift+PageDown"] },
  { id: "zoom-in", title: "Zoom in", group: "Move", keys: ["+", "="] },
  { id: "zoom-out", title: "Zoom out", group: "Move", keys: ["-"] },
  { id: "zoom-fit", title: "Fit to the pane", group: "Move", keys: ["0"] },
  { id: "maximise", title: "Pane large or small", group: "Move", keys: ["m"] },
  { id: "cursor", title: "Crosshair tool", group: "Draw", keys: ["c"] },
  { id: "brush", title: "Brush", group: "Draw", keys: ["b"] },
  { id: "eraser", title: "Eraser", group: "Draw", keys: ["e"] },
  { id: "fill", title: "Fill a closed outline", group: "Draw", keys: ["f"] },
  { id: "act", title: "Use the tool at the crosshair", group: "Draw", keys: [" ", "Enter"] },
  { id: "smaller", title: "Smaller brush", group: "Draw", keys: ["["] },
  { id: "larger", title: "Larger brush", group: "Draw", keys: ["]"] },
  { id: "interpolate", title: "Fill in between drawn slices", group: "Draw", keys: ["i"] },
  { id: "undo", title: "Undo", group: "Draw", keys: ["Ctrl+z"] },
  { id: "redo", title: "Redo", group: "Draw", keys: ["Ctrl+Shift+z", "Ctrl+y"] },
  { id: "point", title: "Point prompt", group: "Prompt", keys: ["p"] },
  { id: "box", title: "Box prompt", group: "Prompt", keys: ["x"] },
  { id: "scribble", title: "Scribble prompt", group: "Prompt", keys: ["s"] },
  { id: "lasso", title: "Lasso prompt", group: "Prompt", keys: ["l"] },
  { id: "sign", title: "Prompt adds or removes", group: "Prompt", keys: ["t"] },
  { id: "run", title: "Run the model", group: "Prompt", keys: ["r"] },
  { id: "clear-prompts", title: "Forget the prompts", group: "Prompt", keys: ["Delete"] },
  { id: "window", title: "Next window preset", group: "See", keys: ["w"] },
  { id: "hide", title: "Hide or show the label", group: "See", keys: ["v"] },
  { id: "hide-all", title: "Hide or show all labels", group: "See", keys: ["h"] },
  { id: "outline", title: "Outlines or filled", group: "See", keys: ["o"] },
  { id: "lock", title: "Lock or unlock the label", group: "See", keys: ["k"] },
  { id: "next", title: "Next image", group: "Work", keys: ["n"] },
  { id: "save-draft", title: "Save the draft now", group: "Work", keys: ["Ctrl+s"] },
  { id: "submit", title: "Submit", group: "Work", keys: ["Ctrl+Enter"] },
  { id: "cancel", title: "Cancel, close, leave the tool", group: "Work", keys: ["Escape"] },
  { id: "help", title: "This list", group: "Work", keys: ["?"] },
];

/** Held while pointing; not in the table because they are no presses. */
export const HELD: readonly { readonly key: string; readonly title: string }[] = [
  { key: "1 to 9", title: "Choose the label of this number" },
  { key: "hold Ctrl", title: "Invert: erase while painting, a prompt that removes" },
  { key: "hold Shift", title: "Move the crosshair, whatever the tool" },
  { key: "hold Alt", title: "Paint a ball through the slices" },
  { key: "wheel", title: "Slice" },
  { key: "Ctrl + wheel", title: "Zoom" },
  { key: "right drag", title: "Window: sideways width, upwards brightness" },
  { key: "middle drag", title: "Pan" },
  { key: "double click", title: "Pane large or small" },
];

export interface KeyPress {
  readonly key: string;
  readonly ctrlKey: boolean;
  readonly metaKey: boolean;
  readonly shiftKey: boolean;
  readonly altKey: boolean;
}

/** The combination of a key press, as the table writes it. Cmd counts as Ctrl; Shift counts where it does not make the sign. */
export function combination(press: KeyPress): string {
  const letter = press.key.length === 1 && press.key.toLowerCase() !== press.key.toUpperCase();
  const key = letter ? press.key.toLowerCase() : press.key;
  const shift = press.shiftKey && (letter || press.key.length > 1);
  const held = [press.ctrlKey || press.metaKey ? "Ctrl" : "", press.altKey ? "Alt" : "", shift ? "Shift" : ""];
  return [...held.filter(Boolean), key].join("+");
}

export class KeyMap {
  readonly #byCombination = new Map<string, string>();
  readonly #byAction = new Map<string, readonly string[]>();

  /** @param overrides action id to combinations; unknown ids and shapes are left out. */
  constructor(overrides: Readonly<Record<string, readonly string[]>> = {}) {
    for (const action of ACTIONS) {
      const keys = overrides[action.id] ?? action.keys;
      this.#byAction.set(action.id, keys);
    }
    for (const [id, keys] of this.#byAction) for (const key of keys) this.#byCombination.set(key, id);
  }

  action(press: KeyPress): string | undefined {
    return this.#byCombination.get(combination(press));
  }

  keys(id: string): readonly string[] {
    return this.#byAction.get(id) ?? [];
  }

  /** "B", "Ctrl+Z": for tooltips. */
  shown(id: string): string {
    return this.keys(id).map(shownKey)[0] ?? "";
  }
}

export function shownKey(combination: string): string {
  return combination
    .split(/\+(?=.)/)
    .map((part) => (part === " " ? "Space" : part.length === 1 ? part.toUpperCase() : part.replace("Arrow", "")))
    .join("+");
}

/** Overrides as people write them. Throws a sentence that says what is wrong. */
export function parseOverrides(text: string): Record<string, readonly string[]> {
  if (text.trim() === "") return {};
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw new Error('The key map is not JSON. Write for example {"brush": ["d"]}.');
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new Error('The key map must be an object, for example {"brush": ["d"]}.');
  }
  const known = new Set(ACTIONS.map((action) => action.id));
  const result: Record<string, readonly string[]> = {};
  for (const [id, keys] of Object.entries(parsed)) {
    if (!known.has(id)) throw new Error(`There is no action "${id}". Known: ${[...known].join(", ")}.`);
    if (!Array.isArray(keys) || !keys.every((key) => typeof key === "string" && key !== "")) {
      throw new Error(`The keys of "${id}" must be a list of texts, for example ["d"].`);
    }
    result[id] = keys;
  }
  return result;
}
