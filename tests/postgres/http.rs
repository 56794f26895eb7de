//! `/metrics`, `/health` and `/ready`.

use pglagoon::cli::playground::Stop;

use crate::harness::{Stand, eventually, rows};

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_are_json_that_says_why() {
    let mut stand = Stand::new(|setup| setup);
    for path in ["/health", "/ready"] {
        let answer = stand.lagoon.http(path).unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.headers.to_lowercase().contains("content-type: application/json"), "{answer:?}");
        assert!(answer.body.trim_start().starts_with('{'), "{answer:?}");
    }
    assert_eq!(stand.lagoon.http("/nowhere").unwrap().status, 404);

    for place in [1, 2, 0] {
        stand.playground.node_mut(place).stop(Stop::Immediate).unwrap();
    }
    eventually("it is not ready without servers", || {
        stand.lagoon.http("/ready").is_some_and(|answer| answer.status == 503 && answer.body.contains("app"))
    });
    assert_eq!(stand.lagoon.http("/health").unwrap().status, 200, "the process itself is well");

    stand.playground.node_mut(0).start().unwrap();
    eventually("it is ready again", || {
        stand.lagoon.http("/ready").is_some_and(|answer| answer.status == 200)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_prometheus_text_and_count_what_happened() {
    let stand = Stand::new(|setup| setup);
    let client = stand.client().await;
    for _ in 0..7 {
        rows(&client, "SELECT count(*) FROM numbers").await;
    }
    for _ in 0..3 {
        rows(&client, "SELECT note('m')").await;
    }
    assert!(client.simple_query("SELECT 1/0").await.is_err());

    let answer = stand.lagoon.http("/metrics").unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.headers.to_lowercase().contains("content-type: text/plain"), "{}", answer.headers);
    let mut typed = 0;
    for line in answer.body.lines() {
        match line.strip_prefix('#') {
            Some(comment) => typed += usize::from(comment.trim_start().starts_with("TYPE pglagoon_")),
            None => {
                let (name, sample) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
                assert!(name.starts_with("pglagoon_") || name.starts_with("process_"), "{line}");
                assert!(sample.parse::<f64>().is_ok() || sample == "+Inf", "{line}");
            }
        }
    }
    assert!(typed > 10, "{typed} metrics");
    // Counted by role: seven reads on replicas; the rest on the primary.
    let by_role = |role: &str| {
        answer
            .body
            .lines()
            .filter(|line| {
                line.contains("query")
                    && line.contains("_count{")
                    && line.contains(&format!("role=\"{role}\""))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>()
    };
    assert!(by_role("replica") >= 7.0 && by_role("primary") >= 3.0, "{}", answer.body);
}
