/** What may be written over: the guard that brush, fill, interpolation and model results all ask. */

export interface GuardRules {
  /** Label values that must not be changed, neither painted over nor extended. */
  readonly locked: ReadonlySet<number>;
  /** Write only where there is no label. */
  readonly onlyEmpty: boolean;
  /** Stored intensities that may be painted, both ends included; null: any. */
  readonly range: readonly [number, number] | null;
}

export const NO_RULES: GuardRules = { locked: new Set(), onlyEmpty: false, range: null };

/** Whether the voxel at an index, which carries `old`, may become `next`. */
export interface Guard {
  (index: number, old: number, next: number): boolean;
  /** The index does not matter, so the answer holds for all voxels that change in the same way. */
  readonly byValue?: boolean;
}

/**
 * @param grey stored intensities; null for pictures, where a range cannot be asked
 */
export function guardOf(rules: GuardRules, grey: Int16Array | null): Guard {
  const { onlyEmpty, range } = rules;
  const isLocked = new Uint8Array(256);
  for (const value of rules.locked) isLocked[value] = 1;
  const guard: Guard = (index, old, next) => {
    if (isLocked[old] === 1 || isLocked[next] === 1) return false;
    if (onlyEmpty && old !== 0 && next !== 0) return false;
    if (range !== null && grey !== null && next !== 0) {
      const value = grey[index]!;
      if (value < range[0] || value > range[1]) return false;
    }
    return true;
  };
  return Object.assign(guard, { byValue: range === null || grey === null });
}

/** Everything may be written over. */
export const ANYTHING: Guard = guardOf(NO_RULES, null);
