# SPDX-License-Identifier: LGPL-2.1-or-later
"""Functions of the kernel by what they do: those that report a crash, those that help others, those of struct pages."""

from __future__ import annotations


class _Names:
    """
    Names of functions, without leading underscores. A star stands for any end.

    :param text: The names, with spaces between them.
    """

    def __init__(self, *texts: str) -> None:
        names = [name for text in texts for name in text.split()]
        self.whole = frozenset(name for name in names if not name.endswith("*"))
        self.beginnings = tuple(name[:-1] for name in names if name.endswith("*"))

    def __contains__(self, function: str) -> bool:
        plain = function.lstrip("_")
        return plain in self.whole or plain.startswith(self.beginnings)


# They print a report or lead to it: traps, panic, the sanitizers' checks, the watchdogs, the printers of stacks.
REPORTERS = _Names(
    """
    dump_stack* show_stack* dump_backtrace* unwind_backtrace* show_regs* walk_stack* save_stack* stack_trace_*
    arch_stack_walk* show_trace* print_report* print_address* print_error_desc* kasan_* asan_* hwasan_* kmsan_*
    msan_* kcsan_* tsan_* ubsan_* sanitizer_* kfence_* check_memory_region* check_region_inline* handle_overflow*
    val_to_string* end_report* start_report* panic* nmi_panic* vpanic* check_panic_on_warn* report_bug* handle_bug*
    fixup_bug* exc_* asm_exc_* do_error_trap* do_trap* do_invalid_op* invalid_op* oops_* no_context*
    async_page_fault* do_page_fault* do_user_addr_fault* do_kern_addr_fault* page_fault* bad_area_nosemaphore*
    general_protection* do_general_protection* error_entry* error_exit* double_fault* do_mem_abort*
    do_translation_fault* do_kernel_fault* do_sea* do_bad_area* die_kernel_fault* brk_handler* call_break_hook*
    do_debug_exception* do_el1_* do_DataAbort* do_PrefetchAbort* dabt_svc* pabt_svc* und_svc* do_undefinstr*
    arm_notify_die* program_check* do_program_check* handle_page_fault* data_access_common* instruction_access*
    print_usage_bug* print_circular_bug* print_unlock* print_lock* print_bad* print_irq* print_deadlock* lockdep_*
    debug_print_object* debug_object* debug_check_no_obj* rcu_lockdep* might_sleep* might_fault* might_resched*
    bad_page* free_page_is_bad* check_free_page_bad* dump_page* free_pages_check* check_new_page*
    ret_from_exception* trace_hardirqs* stack_segment* int3* exception_* handle_exception* fortify* usercopy_abort*
    check_heap_object* check_object_size* check_stack_object* slab_err* slab_bug* object_err* print_trailer*
    rcu_dump* dump_cpu_task* sched_show_task* show_data* slab_pad* print_track* bug_* check_preemption*
    schedule_bug* schedule_debug* cant_sleep* cant_migrate* print_tainted* ex_handler* fixup_exception* nmi_trigger*
    nmi_cpu_backtrace* arch_trigger* trigger_* watchdog* print_cpu_stall* print_other_cpu* check_cpu_stall*
    rcu_check* rcu_pending* rcu_sched_clock* kernel_stack_overflow* softlockup* is_softlockup* check_hung*
    check_bytes* check_object check_slab alloc_debug_processing free_debug_processing on_freelist validate_slab*
    kmemleak_* create_object*
    this_cpu_preempt_check* debug_smp_processor_id* stack_chk_fail* kcov_* check_kcov_mode* usercopy_warn* die warn
    warn_slowpath* warn_printk warn_alloc warn_thunk_thunk el1_* el1h_* check_usage* check_irq_usage* entry_SYSCALL*
    entry_SYSENTER* entry_INT80* va_format* dev_vprintk* dev_printk* dev_emerg
    dev_alert dev_crit dev_err dev_warn dev_notice dev_info
    """
)

# They interrupt what a hang is about, or are of what runs now and then everywhere.
INTERRUPTS = _Names(
    """
    update_process_times* tick_* hrtimer_* run_hrtimer* local_apic_timer* apic_timer* smp_apic_timer* sysvec_*
    asm_sysvec_* smp_call_function_interrupt* call_function* handle_irq* do_IRQ* common_interrupt* arch_timer*
    handle_percpu* generic_handle* handle_domain* gic_* do_interrupt* call_on_irq* irq_* default_do_nmi* do_nmi*
    end_repeat_nmi* timer_interrupt* decrementer* do_idle* do_irq* asm_common_interrupt* reschedule_interrupt*
    riscv_timer* rcu_report* perf_event_nmi* native_apic* profile_tick* trigger_load_balance* ret_from_intr*
    handle_riscv_irq* do_ext_* ext_int_handler* io_int_handler* sched_clock_tick* restore_all* nmi nmi_* el1_*
    el1h_* delay_tsc* unwind_* is_bpf_text_address* kernel_text_address* is_ftrace_trampoline* bpf_address_lookup*
    rcu_is_watching* rcu_dynticks* preempt_schedule_irq* preempt_schedule_common* preempt_schedule_notrace*
    write_comp_data* finish_task_switch* do_softirq*
    """
)

# A task that sleeps does it in one of these. Who called them is of interest.
SLEEPERS = _Names(
    """
    schedule* io_schedule* switch_to* preempt_schedule* mutex_lock* ww_mutex* rt_mutex* rwsem_* wait_for_com*
    wait_on_bit* bit_wait* out_of_line_wait* rwbase_* wait_woken* do_wait* wait_event* msleep* usleep*
    rcu_barrier* synchronize_* wait_rcu_gp* percpu_down* percpu_rwsem* lock_sock* lock_page* wait_on_page*
    folio_wait* folio_lock* flush_work* start_flush_work* cancel_work* drain_workqueue* destroy_workqueue*
    kthread_stop* mutex_spin* osq_* cond_resched* try_to_freeze* do_nanosleep* blk_mq_freeze_queue_wait* ldsem_*
    call_rwsem* console_lock* filemap_fdatawait* wait_on_buffer* rq_qos_wait* usb_start_wait_urb*
    sync_inodes* do_read_cache* read_cache* reiserfs_write_lock* blk_execute_rq* context_switch down down_*
    """
)

# They do one small thing for their caller, and die of what he gave them.
HELPERS = _Names(
    """
    arch_copy_* inline_copy_* mmioset mmiocpy free_to_partial_list get_partial_node get_any_partial
    alloc_single_from_partial deactivate_slab
    copy_* clear_user* get_user* put_user* raw_copy* copyin* copyout* list_* hlist_* rb_* klist_* refcount_* kref_*
    atomic* arch_atomic* ref_tracker* set_bit* clear_bit* change_bit* test_bit* test_and* arch_set_bit*
    arch_clear_bit* arch_test_bit* raw_spin* spin_* do_raw_* queued_spin* native_queued* raw_read* raw_write*
    read_lock* write_lock* read_unlock* write_unlock* lock_acquire* lock_release* lock_is_held* register_lock_class*
    mark_lock* validate_chain* look_up_lock* mutex_* rt_spin* pv_queued* kvm_wait* local_bh* kfree* kvfree* vfree*
    kmalloc* kzalloc* kmem_cache* slab_* kvmalloc* krealloc* vmalloc* read_word_at* read_once* write_once*
    READ_ONCE* WRITE_ONCE* instrument_* get_unaligned* put_unaligned* logic_* native_write_msr* native_read_msr*
    phys_addr* virt_to* string* pointer* vsnprintf* snprintf* sprintf* scnprintf* vprintk* printk* console_*
    format_decode* timer_is_static* work_is_static* queue_work* queue_delayed* insert_work* wake_up* complete*
    swake_* kobject_* device_add* device_del* sysfs_* print_hex* ida_* idr_* xas_* radix_tree* skb_panic*
    skb_over_panic* skb_under_panic* skb_pull* skb_push* skb_put* assertfail* osq_* lock_timer_base* del_timer*
    timer_delete* mod_timer* try_to_grab_pending* kthread_stop* finish_wait* usb_kill* drain_workqueue*
    destroy_workqueue* flush_work* cancel_work* cancel_delayed_work* wait_for_completion* debug_lockdep* vscnprintf*
    proc_register* proc_create* kvasprintf* kasprintf* kstrdup*
    bitmap_* find_next* find_first* cpumask_* nla_* iput* put_device* device_unregister* device_destroy*
    device_remove_file* device_for_each* get_device* dpm_sysfs* devres_release* add_uevent_var* seqprop_* get_taint*
    might_* debug_check_no* drop_nlink* rhashtable_* rht_* kcalloc* devm_* cleanup_srcu* xa_* lock_sock_nested*
    find_lock_entries* find_get_entries* tty_unregister_device* hwrng_unregister* lookup_fast* call_rcu*
    warn_bogus_irq* hlock_class* reacquire_held* up_write* up_read* srcu_* x86_indirect* indirect_thunk* retbleed*
    trace_* perf_trace* preempt_count* rcu_read* xen_hypercall* arch_local_irq* arch_local_save* crc_* crc32_* aes_*
    hex_string* kstrdup* kmemdup* sock_kmalloc* prandom_* get_random_* umount_check* fast_dput* proc_register*
    virt_addr_valid* try_to_del_timer* simple_copy_to_iter* mark_held* mark_usage check_prev* check_noncircular
    check_wait* crc16 crc32 crc32_be crc32_le crc32c down down_common down_interruptible down_killable down_read
    down_read_killable down_read_trylock down_timeout down_trylock down_write down_write_killable down_write_nested
    down_write_trylock hex_dump_to_buffer inb inl inw memcg_slab_post_alloc_hook memchr memchr_inv memcmp memcpy
    memcpy_erms memcpy_power* memcpy_fromio memcpy_orig memcpy_toio memdup memdup_user memmove memmove_erms memscan
    memset memset_erms memset_io memset_orig outb outl outw readb readl readq readw strcasecmp strcat strchr
    strcmp strcpy
    strcspn strdup strim strlcat strlcpy strlen strncasecmp strncmp strncpy strndup strndup_user strnlen strnstr
    strrchr strscpy strsep strspn strstr writeb writel writeq writew
    """
)

# They allocate for whoever asks.
ALLOCATORS = _Names(
    "alloc_pages* alloc_frozen_pages* folio_alloc* kmalloc* kvmalloc* get_free_pages* vmalloc* vzalloc*"
)

# They walk, take or give struct pages, and call nobody else's code.
MEMORY_MAP = _Names(
    # The page allocator, and getting pages ready for it.
    """
    get_page_from_freelist* rmqueue* buffered_rmqueue* prep_new_page* prep_compound* post_alloc_hook*
    check_new_page* free_one_page* free_pcppages_bulk* free_unref* free_tail_page* free_hot_cold* free_contig*
    free_reserved_page* free_reserved_area* destroy_compound* split_page* split_free* split_large_buddy*
    page_is_buddy* find_buddy_page* find_suitable_fallback* del_page_from_free_list* add_to_free_list*
    move_to_free_list* steal_suitable_fallback* try_to_claim_block* try_to_steal_block* unreserve_highatomic*
    reserve_highatomic* get_pfnblock* set_pfnblock* set_pageblock* get_pageblock* clear_pageblock*
    init_pageblock* move_freepages* prep_move_freepages* move_free_pages* bad_page* free_page_is_bad*
    alloc_contig* accept_page* cond_accept_memory* take_page_off_buddy* put_page_back_buddy* drain_pages*
    drain_zone_pages* drain_all_pages* decay_pcp* nr_pcp* page_frag_free* page_reporting* alloc_pages*
    alloc_frozen_pages* zone_watermark* free_pages* free_frozen* isolate_free_page* offline_isolated_pages*
    putback_isolated_page* page_frag_alloc* page_frag_cache* is_free_buddy_page* drain_local_pages* zone_pcp*
    zone_set_pageset* adjust_managed_page_count* build_all_zonelists move_freelist_tail* folio_alloc* frag_show*
    frag_next* unusable_show* extfrag* zoneinfo_show* next_zone* first_online_pgdat next_online_pgdat
    """,
    # Isolation.
    """
    start_isolate_page_range* undo_isolate_page_range* unset_migratetype_isolate* isolate_single_pageblock*
    has_unmovable_pages* page_is_unmovable* is_pageblock_removable* test_pages_isolated* pageblock_isolate*
    pageblock_unisolate* set_migratetype*
    """,
    # Boot.
    """
    init_single_page* init_reserved_page* init_unavailable* init_page_from_nid* init_deferred_page* memmap_init*
    memmap_alloc* init_zone_device* reserve_bootmem_region* memblock_free_pages* memblock_free_all*
    free_low_memory_core* deferred_init* deferred_free* deferred_grow_zone* free_area_init* zero_resv_unavail*
    zero_pfn_range* init_cma_reserved_pageblock* cma_init_reserved* cma_activate_area* zone_init_free_lists*
    adjust_zone_range* set_zone_contiguous* pageblock_pfn_to_page* early_pfn_to_nid* absent_pages*
    init_currently_empty_zone*
    """,
    # Compaction.
    """
    compact_zone* compact_node* compact_lock* compact_unlock* compact_checklock* compact_finished*
    compact_scanners* compact_memory* compact_pgdat* compaction_alloc* compaction_free* compaction_suit*
    compaction_zonelist* kcompactd* isolate_freepages* isolate_migratepages* fast_isolate*
    fast_find_migrateblock* reinit_migrate_pfn* reset_isolation* reset_cached_positions* update_pageblock_skip*
    update_cached_migrate* test_and_set_skip* release_free* split_map_pages* suitable_migration* pageblock_skip*
    SetPageMovable* ClearPageMovable* try_to_compact_pages*
    """,
    # Memory hotplug and the memory map itself.
    """
    offline_pages* scan_movable_pages* do_migrate_range* remove_memory* try_remove_memory* arch_remove_memory*
    arch_add_memory* add_pages* remove_pages* add_memory* move_pfn_range_to_zone* remove_pfn_range_from_zone*
    shrink_zone_span* shrink_pgdat_span* update_pgdat_span* resize_zone_range* resize_pgdat_range*
    find_smallest_section* find_biggest_section* sparse_add* sparse_remove* sparse_init* sparse_buffer*
    sparse_decode* sparse_index* sparse_early* section_activate* section_deactivate* populate_section_memmap*
    depopulate_section_memmap* memunmap_pages* memremap_pages* pagemap_range* mhp_* vmemmap_* hugetlb_vmemmap*
    remove_pagetable* free_pagetable* free_map_bootmem* test_pages_in_a_zone* is_mem_section_removable*
    removable_show* valid_zones_show* online_page* generic_online_page* memory_block_online*
    memory_block_offline* register_mem_block* get_nid_for_pfn* pfn_to_online_page* pfn_valid* pfn_section_valid*
    pfn_to_page* page_to_pfn* page_zone* page_to_nid* zone_spans* zone_intersects* zone_for_pfn*
    default_zone_for_pfn* populate_range* fill_subsection_map* online_memory_block* adjust_present_page_count*
    try_offline_node* offline_mem_sections* online_mem_sections* subsection_mask_set* section_nr* nr_to_section*
    mem_section_usage* get_dev_pagemap* pgmap_pfn_valid* zone_device_page_init*
    """,
    # Those that look at every page.
    """
    kpageflags* kpagecount* kpagecgroup* kpage_* stable_page_flags* page_owner* read_page_owner* set_page_owner*
    reset_page_owner* init_pages_in_zone* init_zones_in_node* pagetypeinfo* lookup_page_ext* page_ext_*
    page_idle_* memory_failure* soft_offline* get_any_page* unpoison_memory* get_hwpoison_page* saveable_page*
    saveable_highmem* mark_free_pages* count_data_pages* count_highmem_pages* kmemleak_scan* page_table_check*
    damon_get_folio* walk_free_areas* fill_contig* identify_page_state* page_handle_poison* shake_page*
    shake_folio* SetPageHWPoison* ClearPageHWPoison*
    """,
)

# They give pages back for their caller, and find what is wrong with one.
_FREERS = _Names(
    """
    free_unref* free_frozen* free_pages* free_pcppages_bulk* free_one_page* free_tail_page* free_hot_cold* folios_put*
    folio_put* put_page* put_folio* put_compound* release_pages* folio_batch_release* page_frag_free*
    page_cache_release* pagevec_release*
    """
)

# They work on struct pages too, but call file systems and drivers.
FOLIOS = _Names(
    # LRU and reclaim.
    """
    lru_add* lru_deactivate* lru_lazyfree* lru_move_tail* lru_activate* lru_gen_add_folio* lru_gen_del_folio*
    lruvec_* mod_lruvec* folio_batch_move_lru* folio_batch_add_and_move* folio_add_lru* pagevec_lru*
    move_folios_to_lru* move_pages_to_lru* putback_inactive_pages* putback_lru* putback_movable*
    folio_isolate_lru* isolate_lru* isolate_folio* isolate_movable* scan_folios* evict_folios* sort_folio*
    inc_min_seq* shrink_inactive_list* shrink_active_list* shrink_page_list* shrink_folio_list* shrink_lruvec*
    release_pages* folios_put* folio_put* folio_lruvec* put_page* put_folio* put_compound* page_cache_release*
    activate_page* folio_activate* rotate_reclaimable* folio_rotate* deactivate_page* deactivate_file*
    mark_page_accessed* folio_mark_accessed* update_lru* mem_cgroup_page_lruvec* mem_cgroup_update_lru*
    mem_cgroup_uncharge* mem_cgroup_migrate* remove_mapping* check_move_unevictable* demote_folio_list*
    reclaim_clean_pages* lru_gen_look_around* get_pfn_folio* folio_inc_gen* folio_batch_release*
    folio_deactivate* folio_mark_lazyfree* lru_note_cost* lru_cache_disable* balance_pgdat* kswapd
    zone_reclaimable_pages*
    """,
    # Folios, compound pages, reverse maps, migration.
    """
    folio_migrate* migrate_page* migrate_folio* move_to_new* unmap_and_move* remap_page* remove_migration*
    split_huge_page* split_folio* folio_split* unmap_folio* lru_add_page_tail* lru_add_split_folio*
    page_remove_rmap* folio_remove_rmap* page_add_* folio_add_anon* folio_add_file* try_to_unmap*
    try_to_migrate* rmap_walk* page_vma_mapped* folio_referenced* page_referenced* page_mapped* folio_mapped*
    page_mapping* folio_mapping* page_mapcount* folio_mapcount* PageHuge* PageHeadHuge* PageMovable*
    PageTransHuge* isolate_hugetlb* try_grab* try_get_folio* folio_try_get* undo_dev_pagemap* free_zone_device*
    put_devmap* dissolve_free_h* free_huge_page* free_huge_folio* free_gigantic* alloc_gigantic*
    prep_compound_gigantic* update_and_free_h* remove_hugetlb_folio* remove_hugetlb_page* add_hugetlb_folio*
    gather_bootmem_prealloc* undo_compound* mod_zone_page_state* mod_node_page_state* inc_zone_page_state*
    dec_zone_page_state* inc_node_page_state* dec_node_page_state* zone_page_state* folio_unlock* folio_end_*
    folio_mark_dirty* folio_account* folio_memcg* folio_wake* folio_test* folio_set* folio_clear_dirty*
    folio_flags* folio_ref_* folio_get_* folio_lru* folio_update* folio_check* folio_maybe* folio_needs*
    folio_undo* folio_prep* folio_free* folio_anon* folio_move* folio_unqueue* folio_large* folio_order*
    folio_nr_* folio_zone* folio_nid* folio_page* unlock_page* end_page_writeback* page_anon_vma*
    page_get_anon_vma* page_lock_anon_vma* set_page_dirty* clear_page_dirty* test_clear_page* wake_up_page*
    deferred_split* split_queue* folio_mod_stat* folio_add_new* hugetlb_add_anon* hugetlb_add_new*
    migrate_misplaced* alloc_migration_target* add_to_swap* delete_from_swap_cache* free_swap_cache*
    free_page_and_swap* dequeue_hugetlb* enqueue_hugetlb* hugetlb_folio_init* prep_and_add* isolate_or_dissolve*
    folio_xchg* split_underused*
    """,
)


def is_reporter(function: str) -> bool:
    """Return whether a function prints a report or leads to it."""
    return function in REPORTERS


def is_interrupt(function: str) -> bool:
    """Return whether a function is of the interrupt that saw a hang."""
    return function in INTERRUPTS


def is_sleeper(function: str) -> bool:
    """Return whether a function sleeps for its caller."""
    return function in SLEEPERS


def is_helper(function: str) -> bool:
    """Return whether a function does a small thing for its caller, who counts."""
    return function in HELPERS


def is_allocator(function: str) -> bool:
    """Return whether a function allocates pages for whoever asks."""
    return function in ALLOCATORS


def is_freer(function: str) -> bool:
    """Return whether a function gives a page back for its caller."""
    return function in _FREERS


def is_of_struct_pages(function: str) -> bool:
    """Return whether a function works on struct pages."""
    return function in MEMORY_MAP or function in FOLIOS


def is_of_memory_map(function: str) -> bool:
    """Return whether a function works on struct pages and calls only others that do."""
    return function in MEMORY_MAP
