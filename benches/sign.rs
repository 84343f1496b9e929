//! What does it cost to bring the parameters of a query into their normal form, to sign them, and
//! to read the answer?
//!
//! `cargo bench --bench sign`, with the request and the answer of the vendor's own page.

use std::hint::black_box;
use std::time::{Duration, UNIX_EPOCH};

use criterion::{Criterion, criterion_group, criterion_main};
use linksfield_gateway::gateway::vendor::upstream::Shape;
use linksfield_gateway::signing::form::{KeyOrder, Signing};
use linksfield_gateway::signing::params::Params;
use linksfield_gateway::signing::sign::Signer;

/// As it stands on the page: with spaces, empty parameters and the global fields.
const REQUEST: &[u8] = include_bytes!("peers/request.json");
const ANSWER: &[u8] = include_bytes!("peers/page.json").trim_ascii_end();

fn benches(criterion: &mut Criterion) {
    criterion.bench_function("a body into its normal form", |bencher| {
        bencher.iter(|| Params::parse(black_box(REQUEST)));
    });

    let params = Params::parse(REQUEST).expect("JSON");
    let now = UNIX_EPOCH + Duration::from_secs(1_643_251_754);
    let shaped = Signing {
        key_order: KeyOrder::CaseInsensitive,
        ..Signing::default()
    };
    for (name, form) in [
        ("as it is sent", Signing::default()),
        ("in another order", shaped),
    ] {
        let signer = Signer::new(&"demo-secret-0001".into(), &form).expect("a secret");
        criterion.bench_function(&format!("a signature over the text {name}"), |bencher| {
            bencher.iter(|| signer.sign(black_box(&params), "P000270", now));
        });
    }

    assert!(matches!(Shape::of(ANSWER), Shape::Page(_)));
    criterion.bench_function("the place of a page, from its answer", |bencher| {
        bencher.iter(|| Shape::of(black_box(ANSWER)));
    });
}

criterion_group!(all, benches);
criterion_main!(all);
