//! The world of `wit/agent.wit` as Rust types and traits.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated; `wit/` is documented"
)]

wasmtime::component::bindgen!({
    path: "wit",
    world: "agent",
    imports: { default: async | trappable },
    exports: { default: async },
});
