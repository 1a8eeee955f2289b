"use strict";
(() => {
  const units = JSON.parse(document.getElementById("tables").textContent);
  const roots = units.flatMap((unit, number) => unit.roots.map((table) => ({ number, table })));
  // The unit whose tables are shown.
  let data = units[0];
  const path = document.getElementById("path");
  const hex = (number, digits = 0) => number.toString(16).padStart(digits, "0");

  const make = (tag, className, ...children) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children.filter((child) => child !== null));
    return made;
  };

  // Entries: what they are for, and what they say.

  const PAGES = { 1: "4 KiB", 2: "2 MiB", 3: "1 GiB" };
  const isPage = (table, row) => table.kind === "paging" && row[5].length === 0;

  // The place of an entry: what the entries on the way to it make of its number.
  const placeOf = (table, row, before) => {
    const n = row[0];
    switch (table.kind) {
      case "root": return { label: `bus ${hex(n, 2)}`, bus: n, upper: 0 };
      case "scalable_root":
        return { label: `bus ${hex(n >> 1, 2)}, ${n & 1 ? "devices 10 to 1f" : "devices 00 to 0f"}`, bus: n >> 1, upper: (n & 1) << 7 };
      case "context":
      case "scalable_context": {
        const devfn = before.upper | n;
        return { label: `${hex(before.bus, 2)}:${hex(devfn >> 3, 2)}.${devfn & 7}` };
      }
      case "directory": return { label: `PASIDs ${hex(n << 6)} to ${hex((n << 6) + 63)}`, pasid: n << 6 };
      case "pasid": return { label: `PASID ${hex(before.pasid + n)}` };
      case "paging": {
        const shift = BigInt(3 + 9 * table.level);
        let base = (before.base ?? 0n) + (BigInt(n) << shift);
        // The upper half of a first stage is at the upper end of all addresses.
        if (table.level === table.levels && table.name.startsWith("first") && n > 255) base += (1n << 64n) - (512n << shift);
        const end = base + (BigInt(row[1]) << shift) - 1n;
        return { label: `0x${hex(base)}`, title: `0x${hex(base)} to 0x${hex(end)}`, base };
      }
      default: return { label: `index 0x${hex(n)}` };
    }
  };

  const valueOf = (raw, [, msb, lsb, shift, , names]) => {
    const value = raw >> BigInt(lsb) & (1n << BigInt(msb - lsb + 1)) - 1n;
    if (names[value] !== undefined) return names[value].toLowerCase().replaceAll("_", " ");
    return shift || value > 9n ? `0x${hex(value << BigInt(shift))}` : String(value);
  };

  const bitsOf = (raw, [, msb, lsb]) => raw >> BigInt(lsb) & (1n << BigInt(msb - lsb + 1)) - 1n;

  // The fields that are not 0: flags by their names, the others with their values.
  const inShort = (row) => {
    const raw = BigInt(row[3]);
    const set = data.layouts[row[4]].fields.filter((field) => bitsOf(raw, field));
    const flags = set.filter(([, msb, lsb]) => msb === lsb).map(([name]) => name).reverse();
    const others = set.filter(([, msb, lsb]) => msb !== lsb).map((field) => `${field[0]}=${valueOf(raw, field)}`);
    return [...others, flags.join(" ")].filter(Boolean).join("  ");
  };

  // One entry in full: a strip of its bits, and its fields.

  const strip = (raw, layout, refused) => {
    const named = layout.fields.reduce((mask, [, msb, lsb]) => mask | (1n << BigInt(msb + 1)) - (1n << BigInt(lsb)), 0n);
    const strips = make("div", "strips");
    for (let word = layout.bits / 64 - 1; word >= 0; word--) {
      if (!((raw | named) >> BigInt(64 * word) & (1n << 64n) - 1n)) continue;
      const cells = make("div", "strip");
      for (let bit = 64 * word + 63; bit >= 64 * word; bit--) {
        const [isSet, isNamed, isWrong] = [raw, named, refused].map((mask) => mask >> BigInt(bit) & 1n);
        const cell = make("i", isWrong ? "wrong" : isSet ? "set" : isNamed ? "clear" : "reserved");
        cell.title = `bit ${bit}`;
        cells.append(cell);
      }
      strips.append(make("div", "word", make("span", "small", `${64 * word + 63}:${64 * word}`), cells));
    }
    return strips;
  };

  const inFull = (table, row) => {
    const layout = data.layouts[row[4]];
    const raw = BigInt(row[3]);
    const refused = BigInt(row[7]);
    const [set, zero] = [make("table"), make("table")];
    for (const field of layout.fields) {
      const [name, msb, lsb, , meaning] = field;
      const line = make("tr", bitsOf(refused, field) ? "wrong" : "", make("td", "small", msb === lsb ? String(msb) : `${msb}:${lsb}`),
        make("th", "", name), make("td", "", valueOf(raw, field)), make("td", "small", meaning));
      (bitsOf(raw, field) ? set : zero).append(line);
    }
    const others = make("details", "zero", make("summary", "small", `${zero.childElementCount} more fields, all 0`), zero);
    const summary = make("summary", "", make("b", "", layout.name), make("span", "small", ` at ${row[2]}, spec ${layout.section}`));
    return make("details", "entry", summary,
      make("code", "raw", `0x${hex(raw, layout.bits / 4)}`),
      row[6] ? make("p", "wrong", `Hardware refuses it: ${row[6]}`) : null,
      strip(raw, layout, refused), make("div", "fields", set, zero.childElementCount ? others : null));
  };

  // A table as a card: a map of its entries, and a list.

  const WIDTH = 64;
  const map = (table, choose) => {
    const height = Math.ceil(table.length / WIDTH);
    if (height > 64) return null;
    const name = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(name, "svg");
    svg.setAttribute("viewBox", `0 0 ${Math.min(WIDTH, table.length) * 4} ${height * 4}`);
    svg.setAttribute("class", "map");
    svg.setAttribute("aria-hidden", "true");
    table.rows.forEach((row, at) => {
      for (let n = row[0]; n < row[0] + row[1]; n++) {
        const cell = document.createElementNS(name, "rect");
        for (const [key, value] of Object.entries({ x: n % WIDTH * 4, y: Math.floor(n / WIDTH) * 4, width: 3.4, height: 3.4 })) cell.setAttribute(key, value);
        cell.setAttribute("class", row[6] ? "wrong" : isPage(table, row) ? "page" : "table");
        cell.addEventListener("click", () => choose(at));
        svg.append(cell);
      }
    });
    return svg;
  };

  const STEP = 64;
  const titleOf = (table) => {
    const names = { root: "Root table", scalable_root: "Root table", context: "Context table", scalable_context: "Context table",
      directory: "PASID directory", pasid: "PASID table", interrupt: "Interrupt table" };
    return names[table.kind] ?? `${table.name.split(",")[0].replace(" entry", "")}, level ${table.level}`;
  };

  const card = (number, depth, sibling, before) => {
    const table = data.tables[number];
    const section = make("section", "card");
    section.dataset.place = `${depth}.${sibling}`;
    const choose = (at) => { open(section, table, depth, sibling, at, before); };
    const entries = table.rows.reduce((sum, row) => sum + row[1], 0);
    section.append(make("h3", "", titleOf(table)),
      make("p", "small", `at ${table.nested ? "guest address " : ""}${table.address}, ${entries} of ${table.length} entries present`));
    const picture = map(table, choose);
    if (picture) section.append(picture);
    const list = make("ol", "rows");
    const show = (from) => {
      table.rows.slice(from, from + STEP).forEach((row, offset) => {
        const place = placeOf(table, row, before);
        const button = make("button", row[6] ? "row wrong" : "row", make("b", "", place.label), make("span", "", inShort(row)));
        if (row[1] > 1) button.append(make("span", "small", `${row[1]} entries in a row, ${PAGES[table.level]} each`));
        button.type = "button";
        button.title = place.title ?? "";
        button.addEventListener("click", () => choose(from + offset));
        list.append(make("li", "", button));
      });
      if (from + STEP < table.rows.length) {
        const more = make("button", "more", `${table.rows.length - from - STEP} more`);
        more.type = "button";
        more.addEventListener("click", () => { more.parentElement.remove(); show(from + STEP); });
        list.append(make("li", "", more));
      }
    };
    show(0);
    section.append(list);
    section.showRow = (at) => {
      while (list.querySelectorAll(".row").length <= at) list.querySelector(".more").click();
      return list.querySelectorAll(".row")[at];
    };
    return section;
  };

  // What is open: the root table, and of each table on the way the chosen entry, as "0.32": the first table below the
  // entry before, its row 32. The address of the page has it too.

  let root = 0;
  let chosen = [];

  const open = (section, table, depth, sibling, at, before) => {
    while (section.nextElementSibling) section.nextElementSibling.remove();
    section.querySelectorAll("[aria-current]").forEach((each) => each.removeAttribute("aria-current"));
    const button = section.showRow(at);
    button.setAttribute("aria-current", "true");
    const row = table.rows[at];
    const place = { ...before, ...placeOf(table, row, before) };
    path.querySelectorAll(".entry").forEach((each) => { each.open = false; });
    section.querySelector(".entry")?.remove();
    const detail = inFull(table, row);
    detail.open = true;
    section.append(detail);
    row[5].forEach((below, number) => {
      path.append(below === null
        ? make("section", "card", make("p", "small", "This table is left out: there are too many for one page."))
        : card(below, depth + 1, number, place));
    });
    chosen = [...chosen.slice(0, depth), `${sibling}.${at}`];
    history.replaceState(null, "", `#${[root, ...chosen].join("/")}`);
    button.scrollIntoView({ block: "nearest", inline: "nearest" });
    path.lastElementChild.scrollIntoView({ block: "nearest", inline: "end" });
  };

  const start = (which) => {
    root = which;
    chosen = [];
    path.replaceChildren();
    document.querySelectorAll("#roots button").forEach((button, number) => button.setAttribute("aria-pressed", String(number === which)));
    if (!roots[which]) return;
    data = units[roots[which].number];
    path.append(card(roots[which].table, 0, 0, {}));
  };

  const follow = (which, steps) => {
    start(which);
    let before = {};
    let below = [roots[which]?.table];
    steps.forEach((step, depth) => {
      const [sibling, at] = step.split(".").map(Number);
      const table = data.tables[below[sibling]];
      const section = path.querySelector(`[data-place="${depth}.${sibling}"]`);
      if (!section || !table?.rows[at]) return;
      open(section, table, depth, sibling, at, before);
      before = { ...before, ...placeOf(table, table.rows[at], before) };
      below = table.rows[at][5];
    });
  };

  // From a device or a refused entry to the entry at its address.
  const find = (unit, where) => {
    const seen = new Set();
    const waiting = roots.flatMap(({ number, table }, which) => (number === unit ? [[table, 0, which, []]] : []));
    while (waiting.length) {
      const [number, sibling, which, steps] = waiting.shift();
      if (number === null || seen.has(number)) continue;
      seen.add(number);
      const { rows } = units[unit].tables[number];
      for (let at = 0; at < rows.length; at++) {
        const there = [...steps, `${sibling}.${at}`];
        const distance = Number(BigInt(where) - BigInt(rows[at][2]));
        if (distance === 0 || (distance > 0 && distance < 8 * rows[at][1] && rows[at][1] > 1)) return [which, there];
        rows[at][5].forEach((below, place) => waiting.push([below, place, which, there]));
      }
    }
    return null;
  };

  roots.forEach(({ number, table }, which) => {
    const unit = units.length > 1 ? `, unit ${units[number].base}` : "";
    const button = make("button", "", titleOf(units[number].tables[table]) + unit);
    button.type = "button";
    button.addEventListener("click", () => start(which));
    document.getElementById("roots").append(button);
  });
  for (const button of document.querySelectorAll("[data-entry]")) {
    button.addEventListener("click", () => {
      const found = find(Number(button.dataset.unit), button.dataset.entry);
      if (!found) {
        button.disabled = true;
        button.title = "left out: there are too many tables for one page";
        return;
      }
      follow(...found);
      path.scrollIntoView({ block: "nearest" });
    });
  }
  const fromHash = () => {
    const [which, ...steps] = location.hash.slice(1).split("/");
    follow(Number(which) || 0, steps);
  };
  addEventListener("hashchange", fromHash);
  fromHash();
})();
