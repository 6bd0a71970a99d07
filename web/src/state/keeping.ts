/** Drafts that the server could not take, kept in the browser until it can: IndexedDB, one record an image and tag. */

const DATABASE = "labelserver";
const STORE = "drafts";

export interface KeptDraft {
  readonly voxels: Blob;
  readonly content: string;
  readonly labelEtag: string | null;
  readonly basedOn: number;
  readonly savedMs: number;
  readonly state: Readonly<Record<string, unknown>>;
}

function database(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("The browser keeps nothing."));
  });
}

async function inStore<T>(mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const opened = await database();
  try {
    return await new Promise<T>((resolve, reject) => {
      const transaction = opened.transaction(STORE, mode);
      const request = act(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result); // not before: only then it outlives the page
      transaction.onabort = () => reject(transaction.error ?? new Error("The browser keeps nothing."));
    });
  } finally {
    opened.close();
  }
}

/** The same image on two servers behind one host is told apart by the page's address. */
function keyOf(person: string, image: string, tag: string): string {
  return [new URL(document.baseURI).pathname, person, image, tag].join("\n");
}

export function keepHere(person: string, image: string, tag: string, draft: KeptDraft): Promise<unknown> {
  return inStore("readwrite", (store) => store.put(draft, keyOf(person, image, tag)));
}

export async function keptHere(person: string, image: string, tag: string): Promise<KeptDraft | undefined> {
  return inStore<KeptDraft | undefined>("readonly", (store) => store.get(keyOf(person, image, tag)) as IDBRequest<KeptDraft | undefined>);
}

export function forgetHere(person: string, image: string, tag: string): Promise<unknown> {
  return inStore("readwrite", (store) => store.delete(keyOf(person, image, tag)));
}
