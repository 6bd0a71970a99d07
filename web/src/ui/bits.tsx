/** Small parts that all views share. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { keyMap } from "../state/settings";
import { Icon } from "./icons";

interface ToolButtonProps {
  readonly icon: string;
  readonly title: string;
  /** Id of the action in the key map; its key is shown in the tooltip. */
  readonly action?: string;
  readonly pressed?: boolean;
  /** Why it cannot be used now; "" when it can. The button can still be reached, and says so. */
  readonly why?: string;
  readonly onClick: (event: MouseEvent) => void;
  readonly text?: string;
  readonly class?: string;
}

/** A button with an icon; its title and its key are in the tooltip and read aloud. */
export function ToolButton({ icon, title, action, pressed, why = "", onClick, text, class: extra = "" }: ToolButtonProps) {
  const key = action === undefined ? "" : keyMap.value.shown(action);
  const hint = [key === "" ? title : `${title} (${key})`, why].filter(Boolean).join(". ");
  return (
    <button type="button" class={`tool ${text === undefined ? "" : "with-text"} ${extra}`} title={hint} aria-label={hint}
      aria-pressed={pressed} aria-disabled={why !== "" || undefined} onClick={(event) => { if (why === "") onClick(event); }}>
      <Icon name={icon} />
      {text !== undefined && <span>{text}</span>}
    </button>
  );
}

interface ModalProps {
  readonly title: string;
  readonly onClose: () => void;
  readonly children: ComponentChildren;
  readonly wide?: boolean;
}

/** A dialog; the browser keeps the focus inside and gives it back. */
export function Modal({ title, onClose, children, wide = false }: ModalProps) {
  const place = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const shown = place.current;
    shown?.showModal();
    return () => shown?.close();
  }, []);
  return (
    <dialog ref={place} class={wide ? "modal wide" : "modal"} aria-label={title}
      onCancel={(event: Event) => { event.preventDefault(); onClose(); }}
      onKeyDown={(event) => { if (event.key !== "Escape") event.stopPropagation(); }}>
      <header class="modal-head">
        <h2>{title}</h2>
        <button type="button" class="tool" title="Close (Esc)" aria-label="Close" onClick={onClose}><Icon name="cross" /></button>
      </header>
      <div class="modal-body">{children}</div>
    </dialog>
  );
}

/** A switch with its words. */
export function Switch({ on, onChange, children, title }: { on: boolean; onChange: (on: boolean) => void; children: ComponentChildren; title?: string }) {
  return (
    <label class="switch" title={title}>
      <input type="checkbox" checked={on} onChange={(event) => onChange(event.currentTarget.checked)} />
      <span>{children}</span>
    </label>
  );
}

interface SelectProps {
  readonly label: string;
  readonly value: string;
  readonly options: readonly { readonly value: string; readonly text: string; readonly title?: string }[];
  readonly onChange: (value: string) => void;
  readonly disabled?: boolean;
  readonly bare?: boolean;
}

/** A native choice. `bare`: the label is read aloud and not shown. */
export function Select({ label, value, options, onChange, disabled = false, bare = false }: SelectProps) {
  return (
    <label class="field">
      <span class={bare ? "aside" : "field-name"}>{label}</span>
      <select value={value} disabled={disabled} onChange={(event) => onChange(event.currentTarget.value)}>
        {options.map((option) => <option key={option.value} value={option.value} title={option.title}>{option.text}</option>)}
      </select>
    </label>
  );
}

/** How far something is; without a share it only says that it goes on. */
export function Bar({ share, text }: { share: number | null; text: string }) {
  const style = { width: share === null ? "40%" : `${Math.round(share * 100)}%` };
  return (
    <div class={share === null ? "bar waiting" : "bar"} role="progressbar" aria-label={text} aria-valuemin={0} aria-valuemax={100}
      aria-valuenow={share === null ? undefined : Math.round(share * 100)}>
      <div style={style} />
    </div>
  );
}

/** A colour with the number that stands beside it everywhere. */
export function Swatch({ colour, number }: { colour: readonly [number, number, number]; number?: number }) {
  const dark = colour[0] * 0.299 + colour[1] * 0.587 + colour[2] * 0.114 > 110;
  return (
    <span class={dark ? "swatch on-bright" : "swatch"} style={{ backgroundColor: `rgb(${colour.join(" ")})` }} aria-hidden="true">{number}</span>
  );
}
