//! One command, no configuration: a gateway with a Linksfield simulator behind it, and what to
//! paste to see it work.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

use super::signals::Signals;
use super::{Done, Failed, cannot_listen, cannot_start, print, runtime};
use crate::config::{Config, Secrets, Server, TenantSecret};
use crate::instance::Instance;
use crate::telemetry::log;
use crate::{open_files, simulator};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Where the gateway listens; the admin listener takes the next port, the simulator the one
    /// after it.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6180")]
    listen: SocketAddr,
}

/// What changes the addresses.
const OPTION: &str = "--listen ADDR: the gateway takes it, the admin listener and the simulator the two ports after it";

pub(super) fn run(options: &Options) -> Done {
    let signals = Signals::install()?;
    open_files::raise_limit();
    let _flushed_last = log::init("info", log::Format::Auto)?;
    runtime(Server::default().worker_threads.get())?.block_on(async {
        let address = beside(options.listen, 2);
        let vendor = (TcpListener::bind(address).await).map_err(|cause| {
            cannot_listen(&format!("the simulator: {address}: {cause}"), OPTION)
        })?;
        let config = configuration(options.listen, vendor.local_addr()?)?;
        let started = Instance::start(&config, &secrets()).await;
        let instance = started.map_err(|error| cannot_start(&error, |_| OPTION.to_owned()))?;
        print(&instructions(
            instance.address()?,
            instance.admin_address()?,
            vendor.local_addr()?,
        ))?;
        let ended = tokio_util::sync::CancellationToken::new();
        let simulator = tokio::spawn(simulator::run(
            vendor,
            strict(),
            ended.clone().cancelled_owned(),
        ));
        instance.run(signals.started()).await?;
        ended.cancel();
        simulator.await??;
        Ok(())
    })
}

/// A simulator that counts as the vendor would: who goes too fast is told so.
fn strict() -> simulator::Options {
    let mut options = simulator::Options::default();
    options.settings.enforce_limits = true;
    options
}

/// So many ports further; of free ones (0), another free one.
fn beside(mut address: SocketAddr, further: u16) -> SocketAddr {
    if address.port() != 0 {
        address.set_port(address.port().wrapping_add(further));
    }
    address
}

/// What the simulator answers to somebody who tries out: none of it is an unknown code, which would
/// raise an alert.
const CALLER_ERRORS: [simulator::code::Code; 6] = [
    simulator::code::MISSING_PARAMETER,
    simulator::code::INVALID_PARAMETER,
    simulator::code::UNKNOWN_PATH,
    simulator::code::UNKNOWN_ORDER,
    simulator::code::UNKNOWN_DEVICE,
    simulator::code::WRONG_STATE,
];

fn configuration(listen: SocketAddr, vendor: SocketAddr) -> Result<Config, Failed> {
    let admin = beside(listen, 1);
    let mut reached = vendor;
    if vendor.ip().is_unspecified() {
        reached.set_ip(match vendor.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let text = format!(
        r#"
        [server]
        listen = "{listen}"
        admin_listen = "{admin}"
        allow_unauthenticated = true  # a simulator is all that can be reached
        [upstream]
        base_url = "http://{reached}{base_path}"
        allow_plaintext = true  # to this very machine
        [upstream.codes]
        bad_signature = ["{bad_signature}"]
        caller_error = {caller_error:?}
        [tenants.demo]
        access_code = "{access_code}"
        secret_env = "UNUSED"  # the made-up secret is handed over below
        [routes."/package/queryOrder"]
        kind = "query"
        pages = true
        [routes."/package/orderPackage"]
        kind = "command"
        invalidates = ["/package/queryOrder"]
        "#,
        base_path = simulator::Options::default().base_path,
        bad_signature = simulator::code::BAD_SIGNATURE.code,
        caller_error = CALLER_ERRORS.map(|code| code.code),
        access_code = simulator::DEMO_ACCESS_CODE,
    );
    Ok(Config::parse(&text, "demo", std::iter::empty())?.0)
}

/// The simulator's secret is made up and public.
fn secrets() -> Secrets {
    let current = simulator::DEMO_SECRET.into();
    let secret = TenantSecret {
        current,
        previous: None,
    };
    Secrets {
        tenants: BTreeMap::from([("demo".to_owned(), secret)]),
        ..Secrets::default()
    }
}

/// An address to paste: where it listens everywhere, that is this machine.
fn pasted(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}

fn instructions(gateway: SocketAddr, admin: SocketAddr, vendor: SocketAddr) -> String {
    // Beyond loopback this needs a token, and the demo has none.
    let is_explained = admin.ip().is_loopback();
    let [gateway, admin, vendor] = [gateway, admin, vendor].map(pasted);
    let explain = if is_explained {
        format!(
            r#"9. What would be done with a request, and why:

   curl -s http://{admin}/explain -H 'Content-Type: application/json' -d '{{"page_no": 1, "page_size": 2}}'

"#
        )
    } else {
        String::new()
    };
    format!(
        r#"A gateway on http://{gateway}, with a simulator of Linksfield behind it. Nothing here costs money.
Paste, in another terminal, in this order:

1. A query that nobody asked before goes to Linksfield, signed (Cache-Status: fwd=miss):

   curl -i http://{gateway}/package/queryOrder -H 'Content-Type: application/json' \
     -d '{{"page_no": 1, "page_size": 2}}'

2. The same question, in other words and with the fields of a signed request, is a hit with an Age:

   curl -i http://{gateway}/package/queryOrder -H 'Content-Type: application/json' \
     -d '{{"access_code": "{access_code}", "device_id": "", "order_id": "", "order_status": "", "order_type": "",
          "page_no": 1, "page_size": 2, "timestamp": "1643251754", "version": "2.0", "sign": "ZdFRHMM/ccYeb49Rys3wOCZXDpc="}}'

3. An order is a command: forwarded once, never cached:

   curl -i http://{gateway}/package/orderPackage -H 'Content-Type: application/json' \
     -d '{{"device_id": "89860012018111220455", "global_order": "0", "is_open": "0", "order_period": "1",
          "package_code": "PACKAGE20180428000007", "package_name": "亚洲12国/地区产品二 30m/月", "package_type": "2",
          "pay_amount": "0", "pay_rst": "2", "test_flow": "0", "test_flow_flag": "0"}}'

4. The query sees it (total_count 106), although the page of request 1 would still be fresh:

   curl -i http://{gateway}/package/queryOrder -H 'Content-Type: application/json' \
     -d '{{"page_no": 1, "page_size": 2}}'

5. All orders as one document, from two calls of 100 and 6, kept with its pages under one snapshot:

   curl -i http://{gateway}/package/queryOrder -H 'Content-Type: application/json' -H 'X-Linksfield-Pages: all' \
     -d '{{}}'

6. An error says what happened, what to do, and whether the request reached Linksfield ("sent"):

   curl -i http://{gateway}/package/queryOrder -H 'Content-Type: application/json' \
     -d '{{"page_no": 1, "page_no": 2}}'

7. So does the loss of an answer: tell the simulator to drop its next one, then order. "sent" is "unknown", and
   x-linksfield-in-doubt: true says that it may have been carried out, so look first:

   curl -s http://{vendor}/_simulator/control -H 'Content-Type: application/json' \
     -d '{{"fail": "drop", "fail_count": 1}}'

   curl -i http://{gateway}/package/orderPackage -H 'Content-Type: application/json' \
     -d '{{"device_id": "89860012018111220455", "package_code": "PACKAGE20180428000007"}}'

8. What operators see: the page at http://{admin}/ in a browser, and of the metrics these few first:

   curl -s http://{admin}/metrics | grep -v ' 0$' |
     grep -E '^linksfield_gateway_(tenant_requests|upstream_calls|commands_unknown_outcome|quota_remaining|cache_entries)'

{explain}Ctrl-C ends both.

"#,
        access_code = simulator::DEMO_ACCESS_CODE,
    )
}
