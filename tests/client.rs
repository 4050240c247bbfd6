//! `shoal::Client` against a real node.

#[path = "running/mod.rs"]
mod running;

use std::time::Duration;

use running::{Place, Running};
use shoal::client::{Seen, Written};
use shoal::{Client, ClientError};

fn node() -> (Place, Running, Client) {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let client = Client::new(&node.url(), None).expect("valid");
    (place, node, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_asked_and_sent_to() {
    let (_place, node, mesh) = node();
    assert_eq!(node.shoal(&["deploy", "echo", "--name", "echo", "--topic", "words"]).code, Some(0));
    let answer = mesh.ask("echo", "hello").await.expect("answers");
    assert_eq!((answer.from.as_str(), answer.text().as_str()), ("echo@n1", "hello"));
    let bytes: &[u8] = &[0, 159, 146, 150];
    let answer = mesh.message("echo", bytes).content_type("image/x").key("k").ask().await.expect("answers");
    assert_eq!((&answer.content[..], answer.content_type.as_str()), (bytes, "image/x"));

    let sent = mesh.send("echo", "hello").await.expect("sent");
    assert_eq!((sent.reached, sent.failed), (1, vec![]));
    let sent = mesh.send("topic:words", "hello").await.expect("sent");
    assert_eq!(sent.reached, 1);
    let stored =
        mesh.message("echo", "later").conversation("c").at_least_once().send().await.expect("stored");
    assert_eq!(stored.reached, 0);

    let names: Vec<_> = mesh.agents().await.expect("told").into_iter().map(|a| a.name.to_string()).collect();
    assert_eq!(names, ["echo"]);
    assert_eq!(mesh.members().await.expect("told").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_an_error_with_its_reason() {
    let (_place, node, mesh) = node();
    let refused = mesh.ask("nobody", "hello").await.expect_err("there is none");
    assert!(refused.code() == Some("unknown_agent") && refused.to_string().contains("nobody"), "{refused:?}");
    let refused = mesh.ask("topic:x", "hello").await.expect_err("a topic has no answer");
    assert_eq!(refused.code(), Some("bad_address"), "{refused:?}");
    let misused = mesh.message("a", "b").at_least_once().ask().await.expect_err("no answer is waited for");
    assert!(matches!(misused, ClientError::Usage(_)), "{misused:?}");
    let bad = mesh.put("", "x").await.expect_err("no key");
    assert!(matches!(bad, ClientError::Refused { .. } | ClientError::Stranger(_)), "{bad:?}");
    assert!(matches!(Client::new("https://x", None), Err(ClientError::Usage(_))));

    let mut changes = mesh.watch().await.expect("it follows");
    let url = node.url();
    drop(node);
    let gone = async { while changes.next().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the end is told");
    let gone = Client::new(&url, None).expect("valid").get("x").await.expect_err("nobody is there");
    assert!(matches!(&gone, ClientError::Unreachable(_)), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_is_read_written_and_followed() {
    let (_place, _node, mesh) = node();
    assert_eq!(mesh.get("a/b c").await, Ok(None));
    let mut changes = mesh.watch_state("a/").await.expect("it follows");
    let made = Written::Made { beside_others: false, without_majority: false };
    assert_eq!(mesh.put("a/b c", "one").await, Ok(made.clone()));
    assert_eq!(mesh.put("b", "not of the prefix").await, Ok(made.clone()));
    let bytes: &[u8] = &[0, 159, 146, 150];
    assert_eq!(mesh.put_durably("a/d", bytes).await, Ok(made.clone()));
    for (key, encoding) in [("a/b c", "Text"), ("a/d", "Base64")] {
        let Seen::One(change) = changes.next().await.expect("it comes") else { panic!("nothing was lost") };
        assert_eq!(
            (change.key.as_str(), format!("{:?}", change.encoding.expect("a value")).as_str()),
            (key, encoding)
        );
    }
    let read = mesh.get("a/b c").await.expect("told").expect("there");
    assert_eq!((read.value.as_deref(), read.siblings.len()), (Some(&b"one"[..]), 0));

    // What was written since it was read is not replaced.
    mesh.put("a/b c", "two").await.expect("written");
    assert_eq!(
        mesh.replace(&read, "three").await,
        Ok(Written::Made { beside_others: true, without_majority: false })
    );
    let mut both = mesh.get("a/b c").await.expect("told").expect("there").siblings;
    both.sort();
    assert_eq!(both, ["three", "two"]);
    let read = mesh.get("a/b c").await.expect("told").expect("there");
    assert_eq!(mesh.replace(&read, "four").await, Ok(made.clone()));

    assert_eq!(mesh.delete("a/d").await, Ok(made));
    assert_eq!(mesh.get("a/d").await, Ok(None));
    for n in 0..1500 {
        mesh.put(&format!("many/{n:04}"), format!("{n}")).await.expect("written");
    }
    let all = mesh.list("many/").await.expect("told");
    assert_eq!(all.len(), 1500);
    assert!(all.iter().map(|entry| &entry.key).is_sorted());
    assert_eq!(all[1499].value.as_deref(), Some(&b"1499"[..]));
}
