import { describe, expect, it } from "vitest";
import { ACTIONS, combination, KeyMap, parseOverrides, shownKey } from "../src/core/keymap";
import { grouped, millilitres, seconds } from "../src/core/numbers";
import { contrast, paletteColour } from "../src/core/palette";

const press = (key: string, held: Partial<Record<"ctrlKey" | "metaKey" | "shiftKey" | "altKey", boolean>> = {}) => ({
  key, ctrlKey: false, metaKey: false, shiftKey: false, altKey: false, ...held,
});

describe("keys", () => {
  it("give each combination one meaning", () => {
    const all = ACTIONS.flatMap((action) => action.keys);
    expect(new Set(all).size).toBe(all.length);
    expect(new Set(ACTIONS.map((action) => action.id)).size).toBe(ACTIONS.length);
  });

  it("are read as pressed", () => {
    const map = new KeyMap();
    expect(map.action(press("b"))).toBe("brush");
    expect(map.action(press("B", { shiftKey: true }))).toBeUndefined();
    expect(map.action(press("z", { ctrlKey: true }))).toBe("undo");
    expect(map.action(press("Z", { metaKey: true, shiftKey: true }))).toBe("redo");
    expect(map.action(press("?", { shiftKey: true }))).toBe("help");
    expect(map.action(press("PageUp", { shiftKey: true }))).toBe("slice-up-10");
    expect(combination(press("Enter", { ctrlKey: true }))).toBe("Ctrl+Enter");
  });

  it("can be given by people", () => {
    const map = new KeyMap(parseOverrides('{"brush": ["d"], "undo": ["u"]}'));
    expect(map.action(press("d"))).toBe("brush");
    expect(map.action(press("b"))).toBeUndefined();
    expect(map.shown("undo")).toBe("U");
    expect(() => parseOverrides('{"brsh": ["d"]}')).toThrow(/no action "brsh"/);
    expect(() => parseOverrides('{"brush": "d"}')).toThrow(/list of texts/);
    expect(() => parseOverrides("{")).toThrow(/not JSON/);
    expect(parseOverrides(" ")).toEqual({});
  });

  it("are shown as on the keyboard", () => {
    expect(shownKey("Ctrl+Shift+z")).toBe("Ctrl+Shift+Z");
    expect(shownKey(" ")).toBe("Space");
    expect(shownKey("+")).toBe("+");
    expect(shownKey("ArrowLeft")).toBe("Left");
  });
});

describe("colours", () => {
  it("differ from label to label and show on black", () => {
    const all = Array.from({ length: 21 }, (_, i) => paletteColour(i + 1));
    expect(new Set(all.map(String)).size).toBe(21);
    for (const colour of all.slice(0, 14)) expect(contrast(colour, [10, 12, 15])).toBeGreaterThan(3);
    expect(contrast([255, 255, 255], [0, 0, 0])).toBeCloseTo(21, 9);
  });
});

describe("numbers", () => {
  it("are written for people", () => {
    expect(grouped(1234567)).toBe("1\u202f234\u202f567");
    expect(millilitres(41203, 0.8)).toBe("33.0 ml");
    expect(millilitres(0, 1)).toBe("0 ml");
    expect(seconds(0.1234)).toBe("123 ms");
    expect(seconds(1.26)).toBe("1.3 s");
    expect(seconds(75)).toBe("1 min 15 s");
  });
});
