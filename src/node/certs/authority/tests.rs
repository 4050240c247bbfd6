//! What a CA's directory does: who gets a certificate, who does not, and what the ledger and the list then say.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::node::certs::{
    CA_CERT, Existing, JoinToken, LEDGER, make_ca, new_key_pem, parse_crls, request_for, write_ca,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const MESSAGE: &[u8] = b"a message";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn days(days: u32) -> Validity {
    Validity::starting(now(), days).expect("in range")
}

fn node(text: &str) -> NodeId {
    NodeId::new(text).expect("valid")
}

struct Place {
    dir: TempDir,
    authority: Authority,
}

impl Place {
    fn of(mesh: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let pair = make_ca(&MeshName::new(mesh).expect("valid"), days(100)).expect("made");
        write_ca(dir.path(), &pair, Existing::Keep).expect("written");
        let authority = Authority::open(dir.path()).expect("a CA");
        Self { dir, authority }
    }

    fn token(&self) -> JoinToken {
        let ca = self.authority.ca().expect("a CA");
        JoinToken::new(&ca, &node("a"), now(), HOUR, 30).expect("made")
    }

    fn issue(&self, name: &str) -> CertificateDer<'static> {
        let issued = self.authority.issue(&node(name), None, &Hosts::default(), days(30), now());
        leaf(&issued.expect("issued").0).expect("PEM")
    }

    fn ledger(&self) -> Ledger {
        Ledger::read(self.dir.path()).expect("readable")
    }

    fn list(&self) -> Option<Crl> {
        self.authority.own_list(&self.authority.ca().expect("a CA")).expect("readable")
    }

    fn revoke(&self, which: &Which) -> Result<Revoking, CertError> {
        self.authority.revoke(which, "superseded", now())
    }
}

/// Asks with a token, a name, a request and a moment.
fn join(
    place: &Place,
    token: &JoinToken,
    name: &str,
    request_pem: &str,
    at: SystemTime,
) -> Result<Granted, JoinRefused> {
    let proof = token.prove(MESSAGE).expect("signed");
    let (shown, node_id) = (token.shown(), node(name));
    let ask = JoinAsk { token: &shown, node_id: &node_id, request_pem, message: MESSAGE, proof: &proof };
    place.authority.join(&ask, at)
}

fn request() -> String {
    request_for(&new_key_pem().expect("made")).expect("made")
}

#[test]
fn a_token_gets_one_certificate_and_it_is_in_the_ledger() {
    let place = Place::of("prod");
    let token = place.token();
    let granted = join(&place, &token, "a", &request(), now()).expect("granted");
    assert_eq!(granted.ca_pem, fs::read_to_string(place.dir.path().join(CA_CERT)).expect("there"));
    assert_eq!(granted.crl_pem, None);
    let certificate = leaf(&granted.cert_pem).expect("PEM");
    let facts = Facts::read(&certificate).expect("readable");
    assert_eq!((facts.uris, facts.not_after), (vec!["spiffe://prod/node/a".to_owned()], now() + 30 * DAY));
    let ledger = place.ledger();
    let issued: Vec<_> = ledger.issued().collect();
    assert_eq!((issued.len(), issued[0].way, &issued[0].fingerprint), (1, Way::Token, &facts.fingerprint));
    assert_eq!(issued[0].token.as_ref(), Some(&token.claims().nonce));
    let text = fs::read_to_string(place.dir.path().join(LEDGER)).expect("text");
    assert!(!text.contains(token.text().expect("short").trim_start_matches("shoal1.")), "{text}");
}

#[test]
fn a_used_token_is_good_for_the_same_key_alone() {
    let place = Place::of("prod");
    let (token, first) = (place.token(), request());
    join(&place, &token, "a", &first, now()).expect("granted");
    let error = join(&place, &token, "a", &request(), now()).expect_err("used");
    assert!(matches!(error, JoinRefused::Used) && error.is_final(), "{error}");
    join(&place, &token, "a", &first, now()).expect("the answer may have been lost");
    place.revoke(&Which::Node(node("a"))).expect("revoked");
    let error = join(&place, &token, "a", &first, now()).expect_err("revoked");
    assert!(matches!(error, JoinRefused::Revoked), "{error}");
}

#[test]
fn each_thing_that_is_wrong_with_a_token_is_told_and_costs_nothing() {
    let (place, same_name, other) = (Place::of("prod"), Place::of("prod"), Place::of("other"));
    let token = place.token();
    let refused = |token: &JoinToken, name: &str, at| {
        join(&place, token, name, &request(), at).expect_err("refused").to_string()
    };
    assert!(refused(&token, "a", now() + 2 * HOUR).contains("expired 3600 s ago"));
    assert!(refused(&token, "b", now()).contains("for node a, and the request for node b"));
    assert!(refused(&same_name.token(), "a", now()).contains("not made by the CA"));
    assert!(refused(&other.token(), "a", now()).contains("for mesh other, this is mesh prod"));
    let (shown, own) = (token.shown(), node("a"));
    let proof = place.token().prove(MESSAGE).expect("signed");
    let request_pem = request();
    for (message, proof) in
        [(MESSAGE, proof.as_slice()), (MESSAGE, b""), (b"another", &token.prove(MESSAGE).expect("signed"))]
    {
        let ask = JoinAsk { token: &shown, node_id: &own, request_pem: &request_pem, message, proof };
        let error = place.authority.join(&ask, now()).expect_err("not proven");
        assert!(matches!(error, JoinRefused::NotProven), "{error}");
    }
    let error = join(&place, &token, "a", "no request", now()).expect_err("no request");
    assert!(error.to_string().contains("signing request"), "{error}");
    assert_eq!(place.ledger(), Ledger::default());
    join(&place, &token, "a", &request(), now()).expect("as good as before");
}

#[test]
fn a_node_does_not_collect_certificates_without_end() {
    let place = Place::of("prod");
    let present = place.issue("a");
    for _ in 1..limits::CERTS_PER_NODE_MAX {
        place.authority.renew(&present, &request(), Renewing::Node, now()).expect("renewed");
    }
    let error = place.authority.renew(&present, &request(), Renewing::Node, now()).expect_err("enough");
    assert!(matches!(error, JoinRefused::TooMany { .. }), "{error}");
    let later = now() + 31 * DAY;
    let by_hand = Renewing::Operator { days: None };
    place.authority.renew(&present, &request(), by_hand, now()).expect("whoever has the CA may");
    place.authority.renew(&present, &request(), Renewing::Node, later).expect("the others have expired");
}

#[test]
fn a_renewed_certificate_says_the_same_as_the_present_one() {
    let place = Place::of("prod");
    let hosts = Hosts { dns: vec!["a.example".to_owned()], ip: vec![IpAddr::from([10, 0, 0, 1])] };
    let issued = place.authority.issue(&node("a"), None, &hosts, days(30), now()).expect("issued").0;
    let present = leaf(&issued).expect("PEM");
    let lasts = |at, given| {
        let granted = place
            .authority
            .renew(&present, &request(), Renewing::Operator { days: given }, at)
            .expect("renewed");
        let facts = Facts::read(&leaf(&granted.cert_pem).expect("PEM")).expect("readable");
        assert_eq!((&facts.dns_names, &facts.ip_addresses), (&hosts.dns, &hosts.ip));
        assert_eq!(facts.uris, ["spiffe://prod/node/a"]);
        facts.not_after.duration_since(at).expect("later").as_secs() / 86_400
    };
    assert_eq!(lasts(now() + DAY, None), 30);
    assert_eq!(lasts(now() + DAY, Some(7)), 7);
    assert_eq!(lasts(now() + 90 * DAY, None), 10, "no longer than the CA");
}

#[test]
fn a_certificate_of_another_ca_or_a_revoked_one_is_not_renewed() {
    let (place, other) = (Place::of("prod"), Place::of("prod"));
    let theirs = other.issue("a");
    let error = place.authority.renew(&theirs, &request(), Renewing::Node, now()).expect_err("another CA");
    assert!(matches!(error, JoinRefused::OtherCa), "{error}");
    let ours = place.issue("a");
    place.revoke(&Which::Certificate(ours.clone())).expect("revoked");
    let error = place.authority.renew(&ours, &request(), Renewing::Node, now()).expect_err("revoked");
    assert!(matches!(error, JoinRefused::Revoked), "{error}");
}

#[test]
fn revoking_a_node_revokes_all_that_it_has_and_counts_the_list_up() {
    let place = Place::of("prod");
    let (first, second, other) = (place.issue("a"), place.issue("a"), place.issue("b"));
    let revoking = place.revoke(&Which::Node(node("a"))).expect("revoked");
    assert_eq!((revoking.newly.len(), revoking.already.len(), revoking.number), (2, 0, 1));
    let list = place.list().expect("a list");
    let listed = |certificate| list.lists(&Serial::of(certificate).expect("readable"));
    assert!(listed(&first) && listed(&second) && !listed(&other));
    let again = place.revoke(&Which::Node(node("a"))).expect("known");
    assert_eq!((again.newly.len(), again.already.len(), again.number), (0, 2, 1), "nothing new to tell");
    assert_eq!(again.crl_pem, revoking.crl_pem);
    let next = place.revoke(&Which::Serial(Serial::of(&other).expect("readable"))).expect("revoked");
    assert_eq!((next.newly.len(), next.number), (1, 2));
    assert_eq!(place.list().expect("a list").serials().len(), 3);
}

#[test]
fn what_nobody_knows_is_not_revoked() {
    let (place, other) = (Place::of("prod"), Place::of("prod"));
    for which in [Which::Node(node("a")), Which::Serial("01".parse().expect("a serial"))] {
        let error = place.revoke(&which).expect_err("unknown");
        assert!(error.to_string().contains("knows no certificate of"), "{error}");
    }
    let error = place.revoke(&Which::Certificate(other.issue("a"))).expect_err("another CA");
    assert!(error.to_string().contains("not signed by this CA"), "{error}");
    assert!(place.list().is_none() && place.ledger() == Ledger::default());
}

#[test]
fn a_certificate_that_is_older_than_the_ledger_can_be_revoked_by_itself() {
    let place = Place::of("prod");
    let present = place.issue("a");
    fs::remove_file(place.dir.path().join(LEDGER)).expect("removed");
    let revoking = place.revoke(&Which::Certificate(present.clone())).expect("revoked");
    assert_eq!(revoking.newly[0].node_id, Some(node("a")));
    assert!(place.list().expect("a list").lists(&Serial::of(&present).expect("readable")));
}

#[test]
fn a_list_is_made_anew_without_what_has_expired_and_keeps_what_the_ledger_has_lost() {
    let place = Place::of("prod");
    place.issue("a");
    place.revoke(&Which::Node(node("a"))).expect("revoked");
    let old_ledger = fs::read(place.dir.path().join(LEDGER)).expect("read");
    let kept = place.issue("b");
    place.revoke(&Which::Node(node("b"))).expect("revoked");
    fs::write(place.dir.path().join(LEDGER), old_ledger).expect("written");
    let later = now() + 31 * DAY;
    let (_, number) = place.authority.sign_crl(later).expect("made");
    let list = place.list().expect("a list");
    assert_eq!((number, list.number, list.serials().len()), (3, 3, 1));
    assert!(list.lists(&Serial::of(&kept).expect("readable")));
}

#[test]
fn the_list_of_another_ca_in_the_file_stays() {
    let (place, other) = (Place::of("prod"), Place::of("prod"));
    other.issue("a");
    let theirs = other.revoke(&Which::Node(node("a"))).expect("revoked").crl_pem;
    fs::write(place.dir.path().join(CA_CRL), theirs).expect("written");
    place.issue("b");
    let text = place.revoke(&Which::Node(node("b"))).expect("revoked").crl_pem;
    let lists = parse_crls(&text).expect("PEM");
    assert_eq!(lists.len(), 2);
    let their_ca = other.authority.ca().expect("a CA").certificate().expect("there");
    assert!(Crl::read(&lists[0], &[their_ca]).is_ok());
    assert_eq!(place.list().expect("a list").number, 1);
}

#[test]
fn a_joiner_gets_the_list_too() {
    let place = Place::of("prod");
    place.issue("b");
    let list = place.revoke(&Which::Node(node("b"))).expect("revoked").crl_pem;
    let granted = join(&place, &place.token(), "a", &request(), now()).expect("granted");
    assert_eq!(granted.crl_pem, Some(list));
}
