//! Which SIMs and orders are there? The same ones after every start: the vendor page's two orders,
//! then 103 made from a fixed seed.
//!
//! The world stands still in 2019, as the page does: nothing expires by itself, only commands
//! change it. **Made up:** the meaning of `orderStatus` (1 ordered, 2 in use, 3 ended, 4 paused),
//! that `order_type` is what an order shows as `buyType`, and how many days a period has.

use serde::Serialize;

use super::calendar;
use super::generator::Generator;

const SEED: u64 = 20_190_302;
/// As on the vendor's page: 53 pages of 2.
const ORDERS: usize = 105;
/// Those that the vendor's examples name; the others are made.
const NAMED_DEVICES: [&str; 4] = [
    "89860012018111220455",
    "89852022018041800192",
    "89852022018041800184",
    "89852202101130001670",
];
const DEVICES: usize = 24;

/// A data plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) code: String,
    pub(super) name: String,
    /// 0 unlimited daily, 1 daily, 2 monthly, 3 three-month, 4 six-month, 5 yearly.
    pub(super) kind: String,
}

/// Code, name, kind, volume. The first is the page's, the second the `orderPackage` example's.
const CATALOGUE: [(&str, &str, &str, u32); 4] = [
    (
        "PACKAGE20180428000007",
        "亚洲12国/地区产品二 30m/月",
        "2",
        30,
    ),
    ("DP20190726001274", "C_M_0_P_中国20M不限速月套餐", "2", 20),
    ("DP20190726001301", "D_1_P_欧洲500M日套餐", "1", 500),
    ("DP20190726001355", "Y_12_P_全球1G/年套餐", "5", 1024),
];

impl Plan {
    fn listed((code, name, kind, _): (&str, &str, &str, u32)) -> Self {
        Self {
            code: code.to_owned(),
            name: name.to_owned(),
            kind: kind.to_owned(),
        }
    }

    fn days(&self) -> u32 {
        match self.kind.as_str() {
            "0" | "1" => 1,
            "3" => 90,
            "4" => 180,
            "5" => 365,
            _ => 30,
        }
    }

    fn volume(&self) -> u32 {
        let listed = CATALOGUE.iter().find(|(code, ..)| *code == self.code);
        listed.map_or(0, |(.., volume)| *volume)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ordered,
    InUse,
    Ended,
    Paused,
}

impl Status {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ordered => "1",
            Self::InUse => "2",
            Self::Ended => "3",
            Self::Paused => "4",
        }
    }
}

/// What a command asks for; times are Unix seconds.
#[derive(Debug, Clone)]
pub(super) struct Placement {
    pub(super) plan: Plan,
    pub(super) periods: u32,
    /// Of one period, where the order says so itself.
    pub(super) days: Option<u32>,
    pub(super) open: bool,
    pub(super) test_flow: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) code: String,
    pub(super) device: String,
    plan: Plan,
    status: Status,
    ordered_at: i64,
    periods: u32,
    period_days: u32,
    active_at: Option<i64>,
    expires_at: Option<i64>,
    used: u32,
    test_flow: bool,
}

impl Order {
    const BUY_TYPE: &'static str = "2";

    fn activate(&mut self, now: i64) {
        self.status = Status::InUse;
        self.active_at = Some(now);
        self.expires_at = Some(now + calendar::days(self.period_days, self.periods));
    }

    pub(super) const fn used(&self) -> u32 {
        self.used
    }

    pub(super) fn remaining(&self) -> u32 {
        self.plan.volume().saturating_sub(self.used)
    }

    /// The order as `queryOrder` lists it.
    pub(super) fn record(&self) -> Record<'_> {
        let date = |at: Option<i64>| at.map(calendar::digits).unwrap_or_default();
        Record {
            buy_type: Self::BUY_TYPE,
            expire_date: date(self.expires_at),
            flow: self.plan.volume().to_string(),
            order_code: &self.code,
            order_status: self.status.as_str(),
            order_date: calendar::digits(self.ordered_at),
            order_period: self.periods.to_string(),
            package_code: &self.plan.code,
            package_name: &self.plan.name,
            package_type: &self.plan.kind,
            used_flow: self.used.to_string(),
            flow_use_rate: (),
            order_used_flow: self.used.to_string(),
            supplier_code: (),
            refueling_package_list: [],
            has_test_flow: if self.test_flow { "1" } else { "0" },
            profile_list: (),
            is_flow_plus: (),
            device_id_camel: &self.device,
            device_id: &self.device,
            active_date: date(self.active_at),
            main_iccid: (),
        }
    }
}

/// The 22 fields in the order of the vendor's page; `()` is a field that is always null there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record<'a> {
    buy_type: &'static str,
    expire_date: String,
    flow: String,
    order_code: &'a str,
    order_status: &'static str,
    order_date: String,
    order_period: String,
    package_code: &'a str,
    package_name: &'a str,
    package_type: &'a str,
    used_flow: String,
    flow_use_rate: (),
    order_used_flow: String,
    supplier_code: (),
    refueling_package_list: [(); 0],
    has_test_flow: &'static str,
    profile_list: (),
    is_flow_plus: (),
    #[serde(rename = "deviceId")]
    device_id_camel: &'a str,
    #[serde(rename = "device_id")]
    device_id: &'a str,
    active_date: String,
    #[serde(rename = "main_iccid")]
    main_iccid: (),
}

/// What to look for; an empty text is no filter.
#[derive(Debug, Default)]
pub(super) struct Filter<'a> {
    pub(super) device: &'a str,
    pub(super) code: &'a str,
    pub(super) status: &'a str,
    pub(super) kind: &'a str,
}

impl Filter<'_> {
    fn matches(&self, order: &Order) -> bool {
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        fits(self.device, &order.device)
            && fits(self.code, &order.code)
            && fits(self.status, order.status.as_str())
            && fits(self.kind, Order::BUY_TYPE)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct World {
    devices: Vec<String>,
    /// Oldest first, as on the page.
    orders: Vec<Order>,
    /// Of the next order; the first one is that of the documented answer.
    next_code: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let mut generator = Generator::new(SEED);
        let mut devices: Vec<String> = NAMED_DEVICES.map(str::to_owned).to_vec();
        while devices.len() < DEVICES {
            let serial = generator.below(100_000_000);
            devices.push(format!("898600120181{serial:08}"));
        }
        let mut orders = vec![
            page_order(617, 1_551_518_839),
            page_order(626, 1_551_585_048),
        ];
        let (mut sequence, mut at) = (626, 1_551_585_048);
        while orders.len() < ORDERS {
            sequence += 1 + generator.below(40);
            at += 600 + i64::from(generator.small(43_200));
            orders.push(made_order(&mut generator, &devices, sequence, at));
        }
        Self {
            devices,
            orders,
            next_code: 47_452_122_261_749_760,
        }
    }

    pub(super) fn devices(&self) -> &[String] {
        &self.devices
    }

    pub(super) fn knows(&self, device: &str) -> bool {
        self.devices.iter().any(|known| known == device)
    }

    pub(super) fn find(&self, filter: &Filter<'_>) -> Vec<&Order> {
        let orders = self.orders.iter();
        orders.filter(|order| filter.matches(order)).collect()
    }

    /// The newest order in use on the SIM.
    pub(super) fn in_use(&self, device: &str) -> Option<&Order> {
        let mut orders = self.orders.iter().rev();
        orders.find(|order| order.device == device && order.status == Status::InUse)
    }

    /// The code of the new order.
    pub(super) fn place(&mut self, device: &str, placement: &Placement, now: i64) -> String {
        let code = format!("ORDER_{}", self.next_code);
        self.next_code += 1;
        let mut order = Order {
            code: code.clone(),
            device: device.to_owned(),
            plan: placement.plan.clone(),
            status: Status::Ordered,
            ordered_at: now,
            periods: placement.periods,
            period_days: placement.days.unwrap_or_else(|| placement.plan.days()),
            active_at: None,
            expires_at: None,
            used: 0,
            test_flow: placement.test_flow,
        };
        if placement.open {
            order.activate(now);
        }
        self.orders.push(order);
        code
    }

    /// When the order ends now; one that was never enabled answers as if it were enabled at once.
    /// `None` if it has ended, an error if there is none.
    pub(super) fn renew(&mut self, code: &str, periods: u32, now: i64) -> Result<Option<i64>, ()> {
        let order = self.orders.iter_mut().find(|order| order.code == code);
        let order = order.ok_or(())?;
        if order.status == Status::Ended {
            return Ok(None);
        }
        order.periods = order.periods.saturating_add(periods);
        let added = calendar::days(order.period_days, periods);
        match &mut order.expires_at {
            Some(expires_at) => {
                *expires_at = expires_at.saturating_add(added);
                Ok(Some(*expires_at))
            }
            None => Ok(Some(now + calendar::days(order.period_days, order.periods))),
        }
    }

    /// How many orders of the SIM were in use and are paused now.
    pub(super) fn pause(&mut self, device: &str) -> usize {
        let orders = self.orders.iter_mut();
        let running = orders.filter(|o| o.device == device && o.status == Status::InUse);
        running.map(|order| order.status = Status::Paused).count()
    }
}

/// One of the two on the vendor's page.
fn page_order(sequence: u64, ordered_at: i64) -> Order {
    let plan = Plan::listed(CATALOGUE[0]);
    Order {
        code: order_code(sequence, ordered_at),
        device: NAMED_DEVICES[0].to_owned(),
        status: Status::Ordered,
        ordered_at,
        periods: 1,
        period_days: plan.days(),
        plan,
        active_at: None,
        expires_at: None,
        used: 0,
        test_flow: false,
    }
}

fn made_order(
    generator: &mut Generator,
    devices: &[String],
    sequence: u64,
    ordered_at: i64,
) -> Order {
    let plan = Plan::listed(*generator.pick(&CATALOGUE));
    let mut order = Order {
        code: order_code(sequence, ordered_at),
        device: generator.pick(devices).clone(),
        status: Status::Ordered,
        ordered_at,
        periods: 1 + generator.small(12),
        period_days: plan.days(),
        plan,
        active_at: None,
        expires_at: None,
        used: 0,
        test_flow: generator.small(10) == 0,
    };
    let status = *generator.pick(&[Status::Ordered, Status::InUse, Status::InUse, Status::Ended]);
    if status != Status::Ordered {
        order.activate(ordered_at + 3_600);
        order.used = generator.small(order.plan.volume());
        order.status = status;
    }
    order
}

fn order_code(sequence: u64, ordered_at: i64) -> String {
    format!("L{}{sequence:010}", &calendar::digits(ordered_at)[..8])
}

#[cfg(test)]
mod tests;
