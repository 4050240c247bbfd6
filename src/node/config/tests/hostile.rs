//! Input that nobody writes by accident: the loader stays bounded and on its feet.

use proptest::prelude::*;

use super::*;

#[test]
fn a_file_made_to_exhaust_the_reader_is_refused_in_few_words() {
    let bytes = limits::CONFIG_FILE_BYTES_MAX;
    let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n".to_owned();
    let deep_block: String = (0..1000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    for text in [
        "[".repeat(bytes),
        "{a: ".repeat(bytes / 4),
        "- ".repeat(bytes / 2),
        "? ".repeat(bytes / 2),
        "[\n".repeat(bytes / 2),
        "- - - -\n".repeat(bytes / 8),
        "a: 1\n".repeat(bytes / 5),
        format!("a: \"{}\"", "\\".repeat(bytes)),
        format!("node: {{id: {}}}", "x".repeat(bytes)),
        format!("{}: 1", "x".repeat(bytes)),
        format!("node: {{labels: [{}]}}", "[],".repeat(bytes / 3)),
        bomb,
        deep_block,
    ] {
        let error = load(&text).expect_err("refused").to_string();
        assert!(error.len() < 100_000, "{}", error.len());
    }
}

/// Pieces of YAML, of our keys and of trouble, to be put together at random.
fn pieces() -> impl Strategy<Value = String> {
    #[rustfmt::skip]
    const WORDS: &[&str] = &[
        "node", "id", "coordination", "cluster", "seeds", "labels", "log", "level", "a", "1", "~", "null",
        "true", ": ", ":", "- ", "-", "? ", "[", "]", "{", "}", ", ", "\n", "\n  ", "\n    ", "  ", "\t",
        "'", "\"", "\\", "|\n", ">\n", "&a ", "*a", "!t ", "!!str ", "#", "---\n", "...\n", "%YAML 1.2\n",
        "%TAG ! x\n", "${A}", "${", "}", "<<", "\r", "\u{feff}", "\u{85}", "\u{2028}", "ä", "@", "`",
    ];
    let word = prop_oneof![
        12 => proptest::sample::select(WORDS).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(word, 0..60).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_loader_panic(text in any::<String>()) {
        let _ = load(&text);
    }

    #[test]
    fn no_heap_of_yaml_makes_the_loader_panic(text in pieces()) {
        let _ = load(&text);
    }

    #[test]
    fn no_damage_to_a_good_file_makes_the_loader_panic(
        from in 0..5000usize, length in 0..40usize, instead in pieces(),
    ) {
        let good: Vec<char> = FULL_EXAMPLE.chars().collect();
        let from = from.min(good.len());
        let to = (from + length).min(good.len());
        let text: String = good[..from].iter().copied().chain(instead.chars()).chain(good[to..].iter().copied()).collect();
        let _ = load(&text);
    }

    #[test]
    fn errors_keep_to_their_lines(text in pieces()) {
        if let Err(errors) = load(&text) {
            let shown = errors.to_string();
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
            prop_assert_eq!(shown.lines().count(), errors.errors().len() + usize::from(errors.unlisted() > 0));
        }
    }
}
