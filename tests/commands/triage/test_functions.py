# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which functions work on struct pages, by names that kernels from 3.10 to 6.19 have."""

from __future__ import annotations

import pytest

from mminspect.commands.triage.functions import is_helper, is_interrupt, is_of_struct_pages, is_reporter, is_sleeper

STRUCT_PAGES = """
get_page_from_freelist __rmqueue rmqueue_bulk __rmqueue_pcplist buffered_rmqueue prep_new_page
prep_compound_page post_alloc_hook check_new_page_bad free_pcppages_bulk __free_one_page __free_pages_ok
__free_pages_core free_pages_prepare free_unref_page free_unref_page_commit free_unref_folios
free_unref_page_list free_hot_cold_page __free_pages free_frozen_pages __alloc_pages __alloc_pages_nodemask
__alloc_frozen_pages_noprof alloc_contig_range_noprof set_pfnblock_flags_mask __get_pfnblock_flags_mask
get_pfnblock_migratetype set_pageblock_migratetype move_freepages move_freepages_block prep_move_freepages_block
steal_suitable_fallback try_to_claim_block __add_to_free_list unreserve_highatomic_pageblock
start_isolate_page_range isolate_single_pageblock has_unmovable_pages test_pages_isolated __init_single_page
init_reserved_page init_unavailable_range memmap_init_zone memmap_init_range reserve_bootmem_region
deferred_init_memmap memblock_free_pages set_zone_contiguous __pageblock_pfn_to_page isolate_freepages_block
isolate_migratepages_block isolate_migratepages_range fast_isolate_freepages fast_isolate_around compact_zone
compact_zone_order compaction_alloc kcompactd update_pageblock_skip __reset_isolation_pfn offline_pages
online_pages __remove_memory try_remove_memory arch_add_memory move_pfn_range_to_zone remove_pfn_range_from_zone
shrink_zone_span sparse_add_section section_deactivate memunmap_pages memremap_pages vmemmap_populate
pfn_to_online_page pfn_valid get_nid_for_pfn is_mem_section_removable lru_add lru_add_fn __pagevec_lru_add_fn
folio_batch_move_lru folio_add_lru move_folios_to_lru move_pages_to_lru isolate_lru_folios isolate_lru_pages
shrink_inactive_list shrink_page_list shrink_folio_list evict_folios release_pages folios_put_refs __folio_put
put_page __put_page mark_page_accessed folio_mark_accessed mem_cgroup_page_lruvec migrate_pages
migrate_pages_batch migrate_folio move_to_new_folio unmap_and_move remove_migration_pte split_huge_page_to_list
folio_remove_rmap_ptes page_remove_rmap try_to_unmap_one rmap_walk_anon page_vma_mapped_walk try_grab_folio
dissolve_free_hugetlb_folio free_huge_folio stable_page_flags kpageflags_read memory_failure folio_unlock
PageHuge mod_node_page_state pageblock_skip_persistent __isolate_free_page __SetPageMovable early_pfn_to_nid
subsection_mask_set add_to_swap delete_from_swap_cache folio_inc_gen frag_show_print
"""

OTHERS = """
ext4_readdir n_tty_read do_page_fault asm_exc_page_fault page_counter_charge pagefault_enable copy_page_to_iter
filemap_read page_pool_alloc_pages cma_cancel_operation sparse_keymap_report_event native_set_pte free_task
put_task_struct migrate_disable compat_sys_ioctl isolated_cpu __kmalloc kfree vfs_write schedule memcpy
folio_wait_bit_common page_cache_ra_unbounded mutex_lock zap_pte_range handle_mm_fault
"""


@pytest.mark.parametrize("function", STRUCT_PAGES.split())
def test_functions_of_struct_pages(function: str) -> None:
    assert is_of_struct_pages(function)


@pytest.mark.parametrize("function", OTHERS.split())
def test_other_functions(function: str) -> None:
    assert not is_of_struct_pages(function)


@pytest.mark.parametrize(
    "function", ["dump_stack_lvl", "__warn", "panic", "kasan_report", "bad_page", "asm_exc_page_fault", "die"]
)
def test_reporters(function: str) -> None:
    assert is_reporter(function)


@pytest.mark.parametrize(
    "function", ["memcpy", "__list_del_entry_valid", "_raw_spin_lock", "refcount_warn_saturate", "kfree"]
)
def test_helpers(function: str) -> None:
    assert is_helper(function)


@pytest.mark.parametrize(
    "function", ["__schedule", "io_schedule", "__mutex_lock", "rwsem_down_read_slowpath", "folio_wait_bit"]
)
def test_sleepers(function: str) -> None:
    assert is_sleeper(function)


@pytest.mark.parametrize(
    "function", ["el1h_64_irq", "asm_sysvec_apic_timer_interrupt", "apic_timer_interrupt", "nmi_handle"]
)
def test_interrupts(function: str) -> None:
    assert is_interrupt(function)


@pytest.mark.parametrize("function", ["diet", "warnings", "memory_notify", "instance_create", "outside"])
def test_names_that_only_begin_alike_are_of_none(function: str) -> None:
    assert not is_reporter(function) and not is_interrupt(function) and not is_sleeper(function)
