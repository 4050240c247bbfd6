//! `/v1/certificates`: what the node proves itself with and whom it trusts; handing in revocation lists.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json as Body;
use axum::extract::State;
use axum::http::StatusCode;

use super::Api;
use super::problem::Problem;
use super::read::Json;
use super::types::{
    Certificate, Certificates, OfferedLists, PeerCertificate, RevocationList, TakenList, TakenLists,
};
use crate::core::ids::CaKeyId;
use crate::node::certs::Facts;
use crate::node::identity::{CrlState, OfferError, Offered, Standing};
use crate::node::transport;

/// The word for how a node's own certificate stands.
pub(super) fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Good => "good",
        Standing::Expired => "expired",
        Standing::Revoked => "revoked",
    }
}

pub(super) async fn show(State(api): State<Arc<Api>>) -> Body<Certificates> {
    let state = api.node.identity();
    Body(Certificates {
        node_id: api.node.own().clone(),
        standing: word(state.standing).to_owned(),
        own: describe(&state.own, None),
        cas: state.cas.iter().map(|(key, ca)| describe(ca, Some(*key))).collect(),
        crls: state.crls.iter().map(describe_list).collect(),
        peers: api.node.peer_certificates().iter().map(describe_peer).collect(),
        refused: state.refused.clone(),
    })
}

/// All of the lists are taken in, or none.
pub(super) async fn offer(
    State(api): State<Arc<Api>>,
    Json(OfferedLists { crl_pem }): Json<OfferedLists>,
) -> Result<Body<TakenLists>, Problem> {
    let lists = api.node.offer_crls(crl_pem).await?;
    let taken = |Offered { issuer, number, revoked, new }| TakenList {
        issuer: issuer.to_string(),
        number,
        revoked,
        new,
    };
    Ok(Body(TakenLists { lists: lists.into_iter().map(taken).collect() }))
}

impl From<OfferError> for Problem {
    fn from(error: OfferError) -> Self {
        let (status, code) = match &error {
            OfferError::Bad(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_crl"),
            OfferError::Older { .. } | OfferError::SameNumber { .. } => (StatusCode::CONFLICT, "older_crl"),
            OfferError::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        Self::new(status, code, error.to_string())
    }
}

fn describe(facts: &Facts, key: Option<CaKeyId>) -> Certificate {
    Certificate {
        subject: facts.subject.clone(),
        serial: facts.serial.clone(),
        fingerprint: facts.fingerprint.clone(),
        not_before: date(facts.not_before),
        not_after: date(facts.not_after),
        key: key.map(|key| key.to_string()),
    }
}

fn describe_list(list: &CrlState) -> RevocationList {
    RevocationList {
        issuer: list.issuer.to_string(),
        number: list.number,
        this_update: date(list.this_update),
        next_update: date(list.next_update),
        revoked: list.revoked.iter().map(ToString::to_string).collect(),
    }
}

fn describe_peer(peer: &transport::PeerCertificate) -> PeerCertificate {
    PeerCertificate {
        node_id: peer.node_id.clone(),
        serial: peer.serial.to_string(),
        not_after: date(peer.not_after),
        ca: peer.ca.map(|key| key.to_string()),
    }
}

/// Certificates with dates that have no text form are no certificates that this node would have accepted.
fn date(time: SystemTime) -> String {
    time::OffsetDateTime::from(time)
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| "-".to_owned())
}
