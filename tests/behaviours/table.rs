//! The table of behaviours: each in our own words, with what shows it here besides the tests that are
//! named by its number, or why nothing does.

/// What shows a behaviour.
pub(crate) enum Shown {
    /// The tests whose names begin with its number, and these.
    By(&'static [&'static str]),
    /// It is otherwise here: how, and what shows that, with the tests whose names begin with its number.
    Otherwise(&'static str, &'static [&'static str]),
    /// It has no meaning here, because of this.
    Not(&'static str),
}

use Shown::{By, Not, Otherwise};

/// A section's letter and title, and the number of its first row.
pub(crate) const SECTIONS: [(&str, u32); 9] = [
    ("A. Joining, addresses, transport", 1),
    ("B. Leaving, starting again, joining again", 19),
    ("C. Probes, suspicions, refutations, verdicts", 35),
    ("D. Members: news, labels, names, conflicts", 71),
    ("E. Packets, queues, limits, bad input", 83),
    ("F. Whole lists", 97),
    ("G. Keys", 102),
    ("H. Order of events, and what outlives a process", 109),
    ("I. Requests, coordinates, operators", 121),
];

const CERTIFICATES: &str = "there are no shared keys: each node has a certificate";

/// Rows 1 to 126.
pub(crate) const ROWS: [(u32, &str, Shown); 126] = [
    (1, "after a join both sides list both nodes", By(&[])),
    (
        2,
        "a seed that takes the connection and says nothing is given up in time",
        By(&["a_peer_that_says_nothing_is_dropped_after_the_handshake_deadline"]),
    ),
    (3, "the joining side can refuse, and nothing has changed", By(&[])),
    (
        4,
        "the joined side can refuse, and nothing has changed",
        By(&["a_node_of_another_mesh_with_the_same_ca_and_name_gets_no_frame_through"]),
    ),
    (
        5,
        "nodes of meshes with different names do not join",
        By(&["the_same_connection_does_not_name_a_node_of_another_mesh"]),
    ),
    (
        6,
        "only some networks may join, in gossip too",
        Otherwise(
            "addresses prove nothing: who is in is decided by certificates, for each link and each packet",
            &[
                "nobody_gets_in_without_a_certificate",
                "a_packet_that_names_another_sender_than_its_link_is_dropped",
            ],
        ),
    ),
    (
        7,
        "joining over IPv6 and over both families",
        By(&["a_socket_for_both_families_hears_of_an_ipv4_peer_too"]),
    ),
    (8, "others see the advertised address and not the bound one", By(&[])),
    (9, "a seed's name stands for all its addresses", By(&[])),
    (
        10,
        "a node that stops right after its start leaves nothing behind",
        By(&["a_port_in_use_is_one_error_and_nothing_has_happened"]),
    ),
    (
        11,
        "a missing port gets the default, however the host is written",
        By(&[
            "a_missing_port_gets_the_default_however_the_host_is_written",
            "what_cannot_be_dialled_is_refused_with_the_reason",
        ]),
    ),
    (
        12,
        "errors of accepting are waited out and do not keep a node from stopping",
        Otherwise(
            "a node has one UDP socket and nothing to accept; refused packets on it harm nobody else",
            &[
                "refused_datagrams_cost_nobody_else_one_in_either_direction",
                "thousands_of_refusals_disturb_no_other_link_and_hint_at_their_pace",
            ],
        ),
    ),
    (
        13,
        "the protocol runs without sockets",
        By(&[
            "the_same_seed_twice_gives_the_same_bytes_and_another_seed_others",
            "the_core_asks_for_neither_time_nor_chance",
        ]),
    ),
    (
        14,
        "a seed that cannot be reached is tried again",
        Otherwise(
            "for ever: a node never gives up on its seeds",
            &[
                "a_seed_that_never_answers_is_tried_for_ever_with_growing_pauses",
                "seeds_that_do_not_answer_are_tried_until_one_does",
            ],
        ),
    ),
    (15, "nodes of one network find each other without seeds", By(&[])),
    (
        16,
        "two meshes that meet",
        Otherwise(
            "they refuse each other and never merge, nor does a newcomer join both",
            &[
                "nodes_of_two_meshes_refuse_each_other_with_the_reason_and_not_several_times_a_second",
                "two_meshes_with_one_ca_refuse_each_other_with_that_reason",
            ],
        ),
    ),
    (17, "joining again does no harm", By(&[])),
    (18, "nodes that are started slowly one after another become one mesh", By(&[])),
    (
        19,
        "who leaves is told as left and never as failed",
        By(&[
            "a_graceful_stop_is_seen_as_left_and_never_as_failed",
            "a_node_that_stops_is_seen_as_left_and_its_agent_is_an_error_with_that_reason",
        ]),
    ),
    (
        20,
        "a departure is told before the node is gone",
        Otherwise(
            "it is told to everyone linked on streams that survive loss, so that nobody need be answered after it",
            &[],
        ),
    ),
    (21, "nothing that was on its way brings a node back that left", By(&[])),
    (
        22,
        "a node may leave and come back, and both are told in order",
        By(&["a_node_that_left_and_starts_again_is_alive_again"]),
    ),
    (23, "who comes back with other labels shows those", By(&[])),
    (24, "telling of a departure ends", By(&[])),
    (
        25,
        "a failed node that starts at another port is told as failed and alive",
        By(&["a_restart_at_another_address_is_found_there"]),
    ),
    (
        26,
        "the failed are called again and come back without help",
        By(&["a_node_cut_off_alone_and_its_seeds_come_back"]),
    ),
    (
        27,
        "how long the failed are called can be set for each",
        Otherwise(
            "all of them are called for ever, some at a time, so that there is nothing to set",
            &["a_cut_of_an_hour_heals_within_a_minute"],
        ),
    ),
    (
        28,
        "a killed node that starts again wins over what is said of its earlier self",
        By(&["the_start_number_grows_by_one_with_every_start"]),
    ),
    (
        29,
        "an operator turns failed into left",
        Not(
            "there is no such command: the failed are called for ever, cost next to nothing, and a node whose certificate is revoked is put out of the mesh",
        ),
    ),
    (
        30,
        "an operator turns leaving into left",
        Not("a node that leaves says so at once and has no state of leaving in the eyes of others"),
    ),
    (
        31,
        "an operator erases who has left",
        Otherwise(
            "a node that leaves for good is erased everywhere by itself",
            &[
                "a_node_that_leaves_for_good_disappears_and_stays_away",
                "a_node_that_was_away_while_another_left_for_good_forgets_it_too",
            ],
        ),
    ),
    (
        32,
        "removing somebody unknown is no error",
        Otherwise(
            "a request to a node that nobody knows is refused with that reason",
            &["requests_to_the_dead_the_unknown_and_the_dying_fail_with_their_reason"],
        ),
    ),
    (
        33,
        "the failed are removed after some time",
        Otherwise("they are never forgotten by themselves: a cut of any length heals", &[]),
    ),
    (
        34,
        "leaving twice is harmless",
        By(&["everyone_who_asks_a_node_to_leave_is_answered", "a_second_signal_does_not_wait_for_agents"]),
    ),
    (
        35,
        "everybody is probed once a lap, in a random order, and newcomers anywhere in it",
        Otherwise(
            "laps take each fourth turn; in all turns each node probes its neighbour in a ring, so that everybody is probed in every period",
            &[],
        ),
    ),
    (36, "helpers are asked after a missed answer, and one that succeeds is enough", By(&[])),
    (
        37,
        "a stream reaches whom datagrams do not",
        Otherwise(
            "both are one UDP flow; a packet goes on a stream where the path takes no datagrams, and helpers bridge where there is no path",
            &["fault_52_udp_blocked_between_two_nodes_is_bridged_by_the_others"],
        ),
    ),
    (
        38,
        "that fallback can be switched off",
        Not("there is nothing to switch off: datagrams and streams share one connection"),
    ),
    (39, "who answers nobody is suspected, and the others hear of it", By(&[])),
    (
        40,
        "a suspicion is the shorter the more confirm it",
        By(&["where_nobody_could_confirm_it_starts_short"]),
    ),
    (
        41,
        "what is left of a suspicion follows the logarithm of its confirmations",
        By(&["the_window_shrinks_with_the_logarithm_of_the_confirmations"]),
    ),
    (42, "only somebody else's own experience confirms, and once", By(&[])),
    (43, "without possible witnesses a suspicion is short; enough of them end it at once", By(&[])),
    (
        44,
        "a node's health has a floor and a ceiling and stretches its waits",
        By(&["the_score_stays_between_its_ends_and_stretches_by_one_more_than_itself"]),
    ),
    (45, "answers improve health, and helpers that stay silent worsen it by their number", By(&[])),
    (46, "a helper that says it failed costs no health", By(&[])),
    (47, "being suspected worsens one's own health", By(&[])),
    (
        48,
        "a ping to a suspect tells it, and it refutes once",
        By(&["a_suspect_that_is_told_refutes_and_one_that_is_not_fails"]),
    ),
    (49, "a helper that hears nothing says so, with the asker's number", By(&[])),
    (50, "late, repeated and unknown answers mean nothing, and nothing is kept for them", By(&[])),
    (51, "a ping for somebody else is not answered", By(&[])),
    (
        52,
        "a suspicion of somebody unknown is ignored",
        Otherwise(
            "an accusation is; gossip of a suspect tells that there is such a member, and starts no clock of one's own",
            &[],
        ),
    ),
    (53, "a suspicion of an earlier incarnation is ignored", By(&[])),
    (54, "a second suspicion does not prolong the first", By(&[])),
    (55, "a suspicion of oneself is refuted and never believed", By(&[])),
    (56, "an outdated suspicion of oneself changes nothing", By(&[])),
    (57, "a refutation beats an accusation that is far ahead", By(&[])),
    (58, "deaths of the unknown and of earlier selves are ignored, and a death is told once", By(&[])),
    (59, "an alive of the same incarnation does not raise the dead", By(&[])),
    (60, "one's own death is refuted, unless one leaves", By(&[])),
    (61, "only oneself says that one left", By(&[])),
    (62, "the timer of a suspicion that is over does nothing", By(&[])),
    (
        63,
        "the dead are gossiped to for a while",
        Otherwise(
            "they are told once, on a stream, that they are held for dead, and are then dialled again for ever",
            &[],
        ),
    ),
    (64, "the long dead are removed at the end of a lap", Otherwise("they are kept, and not probed", &[])),
    (
        65,
        "who is gone for good leaves a mark that keeps it away until it comes back as somebody new",
        By(&["a_node_that_leaves_for_good_disappears_and_stays_away"]),
    ),
    (66, "a later life of a node takes the place of the earlier one", By(&[])),
    (67, "a node neither probes itself nor asks itself for help", By(&[])),
    (68, "in a small mesh all others are asked for help", By(&[])),
    (
        69,
        "when one of five dies, all others suspect it",
        By(&["in_small_meshes_every_survivor_says_so_within_four_seconds"]),
    ),
    (
        70,
        "a refused packet leads straight to a check",
        By(&[
            "a_process_that_is_gone_is_hinted_at_with_the_first_datagram_that_its_port_refuses",
            "a_dial_to_a_port_where_nothing_listens_fails_at_once_and_says_so",
        ]),
    ),
    (71, "a new member is told once", By(&[])),
    (72, "a later refutation or incarnation ends a suspicion", By(&[])),
    (
        73,
        "what a node says of itself changes without news of its membership",
        By(&["an_agent_is_routable_everywhere_within_a_second_and_gone_with_its_node"]),
    ),
    (
        74,
        "a card that is too large is refused, first of all at its source",
        By(&["lists_that_are_too_long_are_refused"]),
    ),
    (
        75,
        "who speaks no common version is not admitted",
        By(&["a_link_to_a_node_of_this_version_speaks_it_and_one_without_a_version_in_common_is_refused"]),
    ),
    (
        76,
        "a name that is claimed from another address changes nothing and is told",
        By(&[
            "a_second_process_with_a_live_nodes_id_is_refused_and_the_first_stays",
            "a_second_node_with_a_live_nodes_name_is_refused_and_both_say_so",
        ]),
    ),
    (
        77,
        "a node that left or failed may come back at another address",
        By(&["a_restart_at_another_address_is_found_there"]),
    ),
    (
        78,
        "of two with one name a vote decides",
        Otherwise(
            "whoever answers at the address where the name lives is the node; nobody votes",
            &[
                "a_second_process_with_a_live_nodes_id_is_refused_and_the_first_stays",
                "a_second_process_with_a_live_nodes_own_name_is_refused",
            ],
        ),
    ),
    (
        79,
        "names have rules, and are checked where they come in",
        By(&[
            "a_name_outside_its_rules_is_refused_with_the_rule",
            "a_name_from_a_frame_is_checked_like_one_from_a_person",
        ]),
    ),
    (
        80,
        "labels can be set, and reach everybody",
        Otherwise(
            "they are set in the configuration and change with a restart",
            &[
                "labels_of_all_sources_come_together",
                "row_023_a_node_that_comes_back_with_other_labels_shows_those",
                "members_are_chosen_by_the_labels_that_they_were_started_with",
            ],
        ),
    ),
    (
        81,
        "what earlier versions wrote is read",
        By(&[
            "what_version_1_wrote_is_read_as_it_was_meant",
            "a_nodes_own_records_are_read_by_version_1_and_its_records_here",
        ]),
    ),
    (82, "counts of members leave out the dead and keep suspects", By(&[])),
    (83, "newer news of a member takes the place of older", By(&[])),
    (84, "news is told a bounded number of times, the newest first", By(&[])),
    (85, "a full queue of news drops the oldest", By(&[])),
    (
        86,
        "a packet stays within its budget, all overhead included",
        By(&["a_full_note_fits_the_space_set_aside_for_it"]),
    ),
    (
        87,
        "packets with lying counts or cut short are errors",
        By(&["cut_long_and_lying_packets_are_refused"]),
    ),
    (
        88,
        "a packet that was changed on its way is dropped",
        Otherwise(
            "by QUIC, whose packets are authenticated; one that a peer has spoilt on purpose does little",
            &[
                "garbage_on_the_udp_port_harms_nothing",
                "gossip_in_another_nodes_name_and_random_bytes_are_counted_and_dropped",
            ],
        ),
    ),
    (
        89,
        "empty, short and unknown packets are dropped with the reason",
        By(&["no_bytes_make_the_opening_panic"]),
    ),
    (
        90,
        "a list that claims millions is refused before there is room for it",
        By(&[
            "a_lying_length_is_refused_before_anything_is_allocated",
            "shapes_that_would_hurt_a_decoder_are_refused",
        ]),
    ),
    (
        91,
        "a message that claims megabytes is refused at its head",
        By(&["a_lying_length_is_refused_before_anything_is_allocated"]),
    ),
    (92, "what unpacks to too much is refused", Not("nothing on the wire is compressed")),
    (
        93,
        "a stream that ends too early harms nothing",
        By(&["a_members_frames_that_lie_cost_the_frame_or_the_link_and_nothing_else"]),
    ),
    (
        94,
        "garbage in lists and records is ignored",
        By(&[
            "absurd_incarnations_lock_nobody_out",
            "an_absurd_start_and_a_bad_snapshot_change_nothing",
            "a_members_frames_that_lie_cost_the_frame_or_the_link_and_nothing_else",
        ]),
    ),
    (
        95,
        "a message that is too large is refused at its sender",
        By(&["content_beyond_its_bound_is_refused_at_the_sender_and_content_at_the_bound_passes"]),
    ),
    (
        96,
        "messages arrive, with and without an answer",
        By(&[
            "three_nodes_find_each_other_and_an_agent_on_one_answers_all",
            "a_message_that_wants_no_answer_is_finished_when_it_is_in_the_mailbox",
        ]),
    ),
    (
        97,
        "an exchange of lists makes them equal",
        By(&["two_islands_become_one_through_a_seed_that_both_know"]),
    ),
    (98, "what another holds for dead is suspected, not dead", By(&[])),
    (
        99,
        "whole lists are exchanged more rarely in large meshes",
        Otherwise(
            "hashes are compared at a fixed pace with one peer, and lists exchanged only where they differ",
            &[],
        ),
    ),
    (100, "a list has the living, the dead, the departed and the forgotten", By(&[])),
    (
        101,
        "versions of the whole mesh must fit",
        Otherwise(
            "each link speaks what its two ends do, and ends without a common version refuse each other",
            &[
                "fault_70_a_node_of_version_1_joins_and_is_told_nothing_that_it_does_not_understand",
                "fault_70_nodes_that_share_no_version_are_refused_with_the_reason_on_both_sides",
            ],
        ),
    ),
    (
        102,
        "what is encrypted comes back",
        Otherwise(
            "everything travels in TLS 1.3",
            &[
                "two_nodes_of_one_mesh_talk_and_each_knows_the_other",
                "another_protocol_or_none_at_either_end_is_refused",
            ],
        ),
    ),
    (
        103,
        "nodes with different keys never join",
        Otherwise(
            CERTIFICATES,
            &[
                "a_peer_with_another_cas_certificate_gets_no_frame_through",
                "a_certificate_of_another_ca_is_refused",
            ],
        ),
    ),
    (
        104,
        "keys are added, used and removed without harm",
        Otherwise(
            CERTIFICATES,
            &[
                "during_a_rotation_nodes_of_the_old_and_the_new_ca_talk",
                "the_ca_and_all_certificates_rotate_under_load_and_no_request_fails",
            ],
        ),
    ),
    (
        105,
        "a mesh goes from plain text to encryption without losing a member",
        Not("there is no plain text to begin with"),
    ),
    (
        106,
        "keys are managed across the mesh, with the nodes that failed to",
        Otherwise(
            CERTIFICATES,
            &[
                "fault_69_a_revoked_node_is_out_of_the_whole_mesh_at_once_and_comes_back_with_a_new_certificate",
                "a_revocation_list_survives_a_restart_and_reaches_a_node_that_was_down",
            ],
        ),
    ),
    (
        107,
        "keys are kept in files, and bad files refuse the start",
        Otherwise(
            CERTIFICATES,
            &[
                "each_fault_is_told_with_the_file_and_the_reason",
                "files_that_are_no_good_are_refused_with_the_reason_and_the_former_stay_in_use",
            ],
        ),
    ),
    (108, "commands about keys say when there is no encryption", Not("there is no node without encryption")),
    (
        109,
        "logical clocks grow past whatever was seen",
        Otherwise(
            "there are starts, durable and growing, and a node that others remember with a later one goes on above it",
            &[
                "a_node_whose_old_disk_was_restored_comes_back_above_what_the_mesh_remembers",
                "an_incarnation_renews_within_its_block_and_never_into_the_next",
            ],
        ),
    ),
    (110, "news of a departure that comes before its member is kept", By(&[])),
    (111, "a start after a departure takes it back", By(&[])),
    (112, "news of departures is kept once, and not for ever", By(&[])),
    (
        113,
        "old events are not delivered",
        Otherwise(
            "events are not gossiped: each node tells its own watchers what it saw, and a gap is told",
            &["a_resumed_watcher_sees_each_event_once_and_hears_of_a_gap"],
        ),
    ),
    (
        114,
        "events of one time are told apart",
        Not("there are no events of users; what a node saw is numbered by that node"),
    ),
    (
        115,
        "who begins to watch is told nothing of the past",
        Otherwise(
            "unless it asks for it by number",
            &["events_resume_by_header_and_by_query_and_tell_of_a_gap"],
        ),
    ),
    (
        116,
        "changes in quick succession are told as one",
        Otherwise(
            "each change is told once, in its order",
            &[
                "a_quick_restart_is_told_as_failed_and_alive",
                "fault_11_a_crash_loop_is_told_a_few_times_and_its_incarnations_grow_by_one_a_start",
            ],
        ),
    ),
    (
        117,
        "who starts again finds its mesh from memory and tells nothing of the past",
        By(&["a_restart_finds_its_mesh_without_any_seed"]),
    ),
    (
        118,
        "who has left does not come back by itself",
        By(&["leaving_the_mesh_forgets_it_and_its_peers_and_keeps_the_agents_and_the_count"]),
    ),
    (
        119,
        "what is remembered survives the store's own tidying",
        By(&[
            "every_acknowledged_change_and_the_start_number_survive_kill_9",
            "what_is_committed_is_there_at_the_next_start",
        ]),
    ),
    (
        120,
        "a slow disk or a slow reader does not hold up membership",
        By(&["watchers_are_bounded_and_a_place_is_free_again_when_one_goes"]),
    ),
    (
        121,
        "questions to many nodes, filtered by name and label",
        Not("a request goes to one node; members are filtered by whoever asks for the list"),
    ),
    (
        122,
        "impossible round trips and coordinates are refused, and a poisoned one's own begins anew",
        By(&[]),
    ),
    (
        123,
        "a peer's rogue coordinate is not kept",
        By(&["one_liar_among_many_does_not_spoil_the_estimates_of_the_others"]),
    ),
    (
        124,
        "scripts handle events",
        Otherwise(
            "they read a stream of events, line by line",
            &["watch_tells_events_line_by_line_and_ends_with_the_node"],
        ),
    ),
    (
        125,
        "the API asks for its token, and streams what happened and what happens",
        By(&[
            "a_token_that_is_configured_is_required_on_loopback_too",
            "events_resume_by_header_and_by_query_and_tell_of_a_gap",
        ]),
    ),
    (
        126,
        "a filter that matches nothing succeeds, bad usage fails, and JSON says what the text says",
        Otherwise(
            "exit codes are 0, 1 for a failure, 2 for bad usage, 3 for a node that cannot be reached",
            &[
                "members_are_a_table_or_json_and_can_be_chosen",
                "each_kind_of_failure_has_its_exit_code_and_one_sentence",
            ],
        ),
    ),
];

/// What no other suite tests, in the order of the list.
pub(crate) const GAPS: [(u32, &str, Shown); 13] = [
    (
        1,
        "a cut that is longer than anything is remembered heals",
        By(&[
            "a_cut_of_an_hour_heals_within_a_minute",
            "fault_38_both_sides_of_a_cut_see_the_other_fail_in_seconds_and_are_one_mesh_after_it",
        ]),
    ),
    (
        2,
        "ways that are open in one direction only",
        By(&[
            "a_one_way_cut_ends_in_order_and_does_not_flap_for_ever",
            "fault_41_a_way_that_is_open_in_one_direction_only_fails_nobody_or_settles",
        ]),
    ),
    (
        3,
        "a machine that is paused for longer than any suspicion",
        By(&[
            "a_pause_that_is_longer_than_any_suspicion_heals_and_accuses_nobody_else",
            "fault_36_a_machine_that_slept_a_minute_accuses_nobody_and_is_back_in_seconds",
        ]),
    ),
    (
        4,
        "a clock that jumps",
        Otherwise(
            "the core has monotonic time only, so that the wall clock moves nothing; monotonic time may stand still while the world goes on",
            &["the_core_asks_for_neither_time_nor_chance"],
        ),
    ),
    (
        5,
        "numbers that are used up",
        By(&[
            "a_node_whose_start_numbers_are_used_up_says_so",
            "an_incarnation_renews_within_its_block_and_never_into_the_next",
        ]),
    ),
    (6, "an address that changes under way", By(&[])),
    (
        7,
        "a loss of a third to two thirds of all packets, with figures",
        By(&["fault_45_loss_of_one_ten_and_thirty_percent_fails_nobody_and_news_still_spreads"]),
    ),
    (
        8,
        "half of a large mesh comes or goes at once, with bounds",
        By(&["more_members_than_the_bound_are_not_taken"]),
    ),
    (
        9,
        "a mesh of this version and the one before",
        By(&[
            "fault_70_a_node_of_version_1_joins_and_is_told_nothing_that_it_does_not_understand",
            "fault_70_a_node_joins_through_a_seed_of_version_1",
        ]),
    ),
    (
        10,
        "a certificate that expires while its node runs",
        By(&[
            "fault_68_a_certificate_that_expires_while_running_ends_its_links_without_a_storm_and_heals_when_renewed",
        ]),
    ),
    (
        11,
        "one identity at two hosts",
        By(&[
            "a_second_process_with_a_live_nodes_id_is_refused_and_the_first_stays",
            "a_second_node_with_a_live_nodes_name_is_refused_and_both_say_so",
        ]),
    ),
    (
        12,
        "a disk that is full",
        By(&[
            "a_full_disk_is_reported_and_over_when_space_returns",
            "a_full_disk_fails_the_group_keeps_what_is_stored_and_is_over_when_space_returns",
            "five_nodes_come_to_rest_after_whatever_happened",
        ]),
    ),
    (
        13,
        "all seeds are dead",
        By(&[
            "a_cut_heals_although_all_seeds_died_meanwhile",
            "a_restart_finds_its_mesh_without_any_seed",
            "fault_55_a_node_whose_seeds_are_all_down_is_alone_goes_on_trying_and_joins_later",
        ]),
    ),
];
