# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect page`` shows to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

from mminspect.render.table import write_consequences, write_pairs, write_table


def write_pages(data: dict[str, Any], out: IO[str], width: int | None) -> None:
    """Write what ``mminspect page`` shows: a block per page."""
    if "process" in data:
        process = data["process"]
        where = f"{process['address']:#x} of PID {process['pid']} ({process['comm']})"
        out.write(f"{where} is at physical address {process['physical_address']:#x}.\n\n")
    elif "slab_object" in data:
        out.write(f"{_slab_object(data['slab_object'])}.\n\n")
    elif data["understood_as"] != "pfn":
        out.write(f"There is no such online pfn: taken for a {data['understood_as']}.\n\n")
    for number, page in enumerate(data["pages"]):
        if number:
            out.write("\n")
        _write_page(page, out, width)


def _slab_object(found: dict[str, Any]) -> str:
    """Say which slab object it is, as far as that is known."""
    cache = f"of cache {found['cache']}" if found["cache"] else "of an unknown cache"
    size = "" if found["object_size"] is None else f", {found['object_size']} bytes"
    if found["object"] is None:
        return f"{found['address']:#x} is in the slab at {found['start']:#x} {cache}{size} an object"
    state = {True: "allocated", False: "free", None: "not known whether allocated"}[found["allocated"]]
    many = "" if found["objects"] is None else f" of {found['objects']}"
    offset = f"byte {found['offset']} of " if found["offset"] else ""
    where = f"object {found['index']}{many} in the slab at {found['start']:#x}"
    return f"{found['address']:#x} is {offset}the object at {found['object']:#x} {cache}{size}: {state}, {where}"


def _migratetype(page: dict[str, Any]) -> str:
    if not page.get("bitmap"):
        return "unknown: there is no bitmap"
    if page["migratetype"] is None:
        return f"unknown: {page['migratetype_why']}"
    bits = [name for name in ("skip", "isolate") if page.get(f"pageblock_{name}")]
    return " ".join([str(page["migratetype"]), *bits])


def _compound(compound: dict[str, Any]) -> str:
    if compound["part"] == "unknown":
        return "can't be determined"
    return f"{compound['part']}, head {compound['head_pfn']:#x}, order {compound['order']}"


def _free_block(buddy: dict[str, Any]) -> str:
    on = buddy["list"]
    if "broken" in on:
        return f"head {buddy['head_pfn']:#x}, order {buddy['order']}; on no list: {on['broken']}"
    where = f"{on['zone']}, order {on['order']}, {on['migratetype']}"
    return f"head {buddy['head_pfn']:#x}, order {buddy['order']}; on the list of {where}"


def _per_cpu(on: dict[str, Any]) -> str:
    order = "" if on["order"] is None else f"order {on['order']}, "
    return f"head {on['head_pfn']:#x}; on the list of CPU {on['cpu']}, {on['zone']}, {order}{on['migratetype']}"


def _neighbor(page: dict[str, Any] | None) -> str:
    if page is None:
        return "not online"
    parts = [page.get("link", "")] + [page["state"]] * (page["state"] != "initialized")
    return ", ".join(filter(None, parts)) + (" (reserved)" if page.get("reserved") else "")


def _page_pairs(page: dict[str, Any]) -> dict[str, Any]:
    block, order = page["pageblock"]
    pairs: dict[str, Any] = {
        "pfn": f"{page['pfn']:#x} ({page['pfn']})",
        "physical address": f"{page['physical_address']:#x}",
        "struct page": f"{page['struct_page']:#x}",
        "state": page["state"],
    }
    if "link" in page:
        link = page["link"]
        pairs["links to"] = f"node {link['node']} zone {link['zone'] or 'id ' + str(link['zone_id'])}"
    spanned = ", ".join(f"node {node} zone {name}" for node, _, name in page["spanned_by"])
    pairs["spanned by"] = spanned or "no zone"
    if page["section"] is not None:
        bit = {True: ", subsection present", False: ", subsection absent", None: ""}[page["subsection"]]
        pairs["section"] = f"{page['section']} ({' '.join(page['section_flags'])}{bit})"
    pairs["pageblock"] = f"{block:#x}, order {order}"
    if "link" in page:
        pairs["migratetype"] = _migratetype(page)
    if page.get("bitmap"):
        value = f": {page['bitmap_value']:#x}" if "bitmap_value" in page else ""
        where = f"word at {page['bitmap_word']:#x}{value}"
        pairs["bitmap index"] = f"{page['bitmap_index']} of {page['bitmap_limit']}, {where}"
    if "words" in page:
        tail = page.get("compound", {}).get("part") == "tail"
        note = " (other bits of a tail's word are data of the compound page)" if tail else ""
        pairs["flags"] = (" ".join(page["flags"].split("|")) or "none") + note
        mapcount = page["mapcount"]
        if mapcount is None:
            mapcount = "none (a page type)" if page["page_type"] else "none (not initialized)"
        pairs["refcount, mapcount"] = f"{page['refcount']}, {mapcount}"
        pairs["page type"] = page["page_type"] or "none"
        if "compound" in page:
            pairs["compound"] = _compound(page["compound"])
        if page["buddy"] is not None:
            pairs["free block"] = _free_block(page["buddy"])
        if page["per_cpu"] is not None:
            pairs["per-CPU list"] = _per_cpu(page["per_cpu"])
        pairs["owner"] = page["owner"]
    if page["resources"]:
        pairs["resource"] = " / ".join(page["resources"])
    if page["memblock"] is not None:
        pairs["memblock"] = ", ".join(page["memblock"]) or "in no region"
    return pairs


def _write_page(page: dict[str, Any], out: IO[str], width: int | None) -> None:
    rows: list[Sequence[Any]]
    write_pairs(_page_pairs(page), out, width)
    if "words" in page:
        out.write("\nWords\n")
        size = len(page["words"][0])
        per_line = 4 if width is None else max(1, min(4, (width - 6) // (size + 1)))
        for start in range(0, len(page["words"]), per_line):
            out.write(f"+{start:<4} " + " ".join(page["words"][start : start + per_line]) + "\n")
    if "device" in page:
        rows = [(f["severity"], f["rule"], f["message"]) for f in page["findings"]]
        if rows:
            out.write("\nRules that it breaks\n")
            write_table(rows, ("severity", "rule", "message"), out, width)
        else:
            out.write("\nNo rule but device-memory judges it, which found nothing here.\n")
        return
    out.write("\nNeighbors\n")
    rows = []
    for item in page["neighbours"]:
        at = f"{item['boundary']} {item['pfn']:#x}"
        rows.append((at, _neighbor(item["before"]) + " | " + _neighbor(item["after"])))
    write_table(rows, ("boundary", "before | after"), out, width)
    if page.get("consequences"):
        out.write("\nWhat the kernel would do\n")
        write_consequences(page["consequences"], out, width)
    for heading, findings in (
        ("Rules that it breaks", page["findings"]),
        ("Of its zone as a whole", page["zone_findings"]),
    ):
        rows = [(f["severity"], f["rule"], f["message"]) for f in findings]
        if rows:
            out.write(f"\n{heading}\n")
            write_table(rows, ("severity", "rule", "message"), out, width)
        elif findings is page["findings"]:
            out.write(f"\n{heading}\nnone\n")


def write_brief(data: dict[str, Any], out: IO[str], width: int | None) -> None:
    """Write a line a page."""
    rows = []
    for page in data["pages"]:
        link = page.get("link")
        zone = "" if link is None else f"{link['node']} {link['zone'] or 'id ' + str(link['zone_id'])}"
        flags = " ".join(name[len("PG_") :] for name in page.get("flags", ()))
        state = "" if page["state"] == "initialized" else page["state"]
        rows.append(
            (
                *(f"{page[key]:#x}" for key in ("pfn", "physical_address", "struct_page")),
                zone,
                *(str(page.get(key, "")) for key in ("refcount", "mapcount")),
                f"{page['mapping']:#x}" if page.get("mapping") else "",
                ", ".join(filter(None, (state, flags))),
            )
        )
    headers = ("pfn", "physical", "struct page", "zone", "refcount", "mapcount", "mapping", "flags")
    write_table(rows, headers, out, width)
