//! How maps, sets and counters lie in plain keys, so that concurrent changes to different parts of one never meet.
//!
//! | What | Keys | Value |
//! |---|---|---|
//! | map | `_map/<name>/<field>` | the field's value |
//! | set | `_set/<name>/<element>` | empty; a key that is there is an element |
//! | counter | `_counter/<name>/<adder>` | what that adder has added up, in decimal digits |
//!
//! Each name, field and element is one part of a key: `%`, `/` and control characters are written as `%` and two
//! hexadecimal digits for each of their bytes, so that one text has one key and one key stands for one text. An
//! element that is added while another node deletes it stays: a delete covers only the writes that it has seen. An
//! adder is one process of a node, and nobody else writes its key; the sum of all of them is the counter.
//!
//! A key whose first part is one of the three belongs to its layout. Nothing refuses a plain write to one: the
//! layouts are made of such writes.

use std::fmt::Write;

use super::limits;
use super::model::check_key;

/// What a layout stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A value for each field.
    Map,
    /// Elements, each there or not.
    Set,
    /// A sum.
    Counter,
}

/// Why a text cannot be a name, a field or an element.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// It is empty.
    #[error("a {0} must not be empty")]
    Empty(&'static str),
    /// The key would be too long.
    #[error("{0:?} is too long: its key would have more than {max} bytes", max = limits::STATE_KEY_BYTES_MAX)]
    TooLong(String),
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Map, Self::Set, Self::Counter];

    /// The first part of its keys.
    #[must_use]
    pub fn root(self) -> &'static str {
        match self {
            Self::Map => "_map",
            Self::Set => "_set",
            Self::Counter => "_counter",
        }
    }

    /// What a part of it is called.
    #[must_use]
    pub fn part_name(self) -> &'static str {
        match self {
            Self::Map => "field",
            Self::Set => "element",
            Self::Counter => "adder",
        }
    }

    /// The layout that a key belongs to.
    #[must_use]
    pub fn of(key: &str) -> Option<Self> {
        let first = key.split('/').next()?;
        Self::ALL.into_iter().find(|layout| layout.root() == first)
    }

    /// What all keys of the map, set or counter of that name begin with, and no others.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn prefix(self, name: &str) -> Result<String, LayoutError> {
        if name.is_empty() {
            return Err(LayoutError::Empty("name"));
        }
        let prefix = format!("{}/{}/", self.root(), quoted(name));
        // At least one byte follows.
        if prefix.len() < limits::STATE_KEY_BYTES_MAX {
            Ok(prefix)
        } else {
            Err(LayoutError::TooLong(shown(name)))
        }
    }

    /// The key of one part.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn key(self, name: &str, part: &str) -> Result<String, LayoutError> {
        let prefix = self.prefix(name)?;
        if part.is_empty() {
            return Err(LayoutError::Empty(self.part_name()));
        }
        let key = prefix + &quoted(part);
        if check_key(&key).is_ok() { Ok(key) } else { Err(LayoutError::TooLong(shown(part))) }
    }

    /// The part that a key stands for; `None` for a key that [`key`](Self::key) never makes of that name.
    #[must_use]
    pub fn part(self, name: &str, key: &str) -> Option<String> {
        let rest = key.strip_prefix(&self.prefix(name).ok()?)?;
        let part = unquoted(rest)?;
        (!part.is_empty() && quoted(&part) == rest).then_some(part)
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '%' && c != '/' && !c.is_control() {
            quoted.push(c);
            continue;
        }
        let mut bytes = [0; 4];
        for byte in c.encode_utf8(&mut bytes).bytes() {
            write!(quoted, "%{byte:02X}").expect("a text takes all");
        }
    }
    quoted
}

fn unquoted(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(16 * high + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_name_begin_alike_and_those_of_another_do_not() {
        assert_eq!(Layout::Map.key("users", "7").as_deref(), Ok("_map/users/7"));
        assert_eq!(Layout::Set.key("a/b", "50%\n").as_deref(), Ok("_set/a%2Fb/50%25%0A"));
        assert_eq!(Layout::Counter.prefix("hits").as_deref(), Ok("_counter/hits/"));
        assert_eq!(Layout::Map.part("users", "_map/users2/7"), None);
        assert_eq!(Layout::Map.part("users", "_set/users/7"), None);
        assert_eq!(Layout::Set.part("a/b", "_set/a%2Fb/50%25%0A").as_deref(), Some("50%\n"));
    }

    #[test]
    fn a_key_that_was_written_by_hand_is_no_part() {
        for key in
            ["_map/m/", "_map/m/a/b", "_map/m/%2f", "_map/m/%41", "_map/m/%", "_map/m/%zz", "_map/m/%FF"]
        {
            assert_eq!(Layout::Map.part("m", key), None, "{key}");
        }
    }

    #[test]
    fn an_empty_part_and_one_too_long_for_a_key_are_refused() {
        assert_eq!(Layout::Map.key("", "a"), Err(LayoutError::Empty("name")));
        assert_eq!(Layout::Set.key("s", ""), Err(LayoutError::Empty("element")));
        let most = limits::STATE_KEY_BYTES_MAX - "_map/m/".len();
        assert!(Layout::Map.key("m", &"x".repeat(most)).is_ok());
        assert!(matches!(Layout::Map.key("m", &"x".repeat(most + 1)), Err(LayoutError::TooLong(_))));
        assert!(matches!(Layout::Map.key("m", &"/".repeat(most / 2)), Err(LayoutError::TooLong(_))));
        assert!(matches!(Layout::Map.prefix(&"x".repeat(512)), Err(LayoutError::TooLong(_))));
    }

    #[test]
    fn a_plain_key_belongs_to_no_layout() {
        assert_eq!(Layout::of("_map/users/7"), Some(Layout::Map));
        for key in ["maps/a", "_mapped/a", "_mesh/policies/x", "orders/_map/a"] {
            assert_eq!(Layout::of(key), None, "{key}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_found_again_in_its_key(name in "\\PC{1,20}", part in "(?s).{1,40}") {
            for layout in Layout::ALL {
                let key = layout.key(&name, &part).expect("short enough");
                proptest::prop_assert_eq!(check_key(&key), Ok(()));
                proptest::prop_assert_eq!(layout.part(&name, &key), Some(part.clone()));
                proptest::prop_assert_eq!(Layout::of(&key), Some(layout));
            }
        }
    }
}
