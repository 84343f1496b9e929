//! What does each endpoint answer, and what does it change? The paths of the vendor's documentation
//! that are known.
//!
//! **Made up**, because no public page shows it: the whole `data` of `queryDevice`,
//! `batchOrderPackages`, `createOtaOrder` (that of `orderPackage`), `pauseService` and
//! `getInfoByDeviceId`; the parameters of `pauseService` and `getInfoByDeviceId` (`device_id`);
//! what is refused, and with which code. `syncAssetInfo` has the two documented fields of eight.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::calendar;
use super::code::{self, Refusal};
use super::params::Params;
use super::world::{Filter, Order, Placement, Plan, Record, World};

/// The vendor states no maximum here; its newer API has this one.
const MAX_PAGE_SIZE: u32 = 100;
const MAX_PERIODS: u32 = 1_000;

/// A call whose signature was found good.
pub(super) struct Call<'a> {
    pub(super) params: Params<'a>,
    /// The request's own.
    pub(super) sign: &'a str,
    /// The one that a query's answer carries.
    pub(super) answer_sign: String,
    /// Unix seconds.
    pub(super) now: i64,
}

type Outcome = Result<Box<RawValue>, Refusal>;
type Endpoint = fn(&mut World, &Call<'_>) -> Outcome;

/// Every known path.
const ENDPOINTS: [(&str, Endpoint); 10] = [
    ("/device/queryDevice", query_device),
    ("/device/syncAssetInfo", sync_asset_info),
    ("/device/pauseService", pause_service),
    ("/flow/queryDeviceFlowUsage", query_device_flow_usage),
    ("/flow/getInfoByDeviceId", info_by_device_id),
    ("/package/orderPackage", order_package),
    ("/package/batchOrderPackages", batch_order_packages),
    ("/package/renewPackage", renew_package),
    ("/package/queryOrder", query_order),
    ("/package/createOtaOrder", create_ota_order),
];

/// The path as the table spells it: what may become a counter's name.
pub(super) fn known(path: &str) -> Option<&'static str> {
    let mut paths = ENDPOINTS.iter().map(|(known, _)| *known);
    paths.find(|known| *known == path)
}

pub(super) fn answer(world: &mut World, path: &str, call: &Call<'_>) -> Outcome {
    let endpoint = ENDPOINTS.iter().find(|(known, _)| *known == path);
    let (_, endpoint) = endpoint.ok_or_else(|| Refusal::of(&code::UNKNOWN_PATH, path))?;
    endpoint(world, call)
}

fn data(data: &impl Serialize) -> Box<RawValue> {
    to_raw_value(data).expect("strings, numbers and lists become JSON")
}

fn query_order(world: &mut World, call: &Call<'_>) -> Outcome {
    #[derive(Serialize)]
    #[expect(clippy::struct_field_names, reason = "the vendor's names")]
    struct Page {
        cur_page_no: u32,
        page_size: u32,
        total_count: usize,
        total_pages: usize,
    }
    #[derive(Serialize)]
    struct Data<'a> {
        page: Page,
        sign: &'a str,
        package_order: Vec<Record<'a>>,
        package_order_num: usize,
    }

    let page_no = call.params.integer("page_no", u32::MAX)?;
    let page_size = call.params.integer("page_size", MAX_PAGE_SIZE)?;
    let filter = Filter {
        device: call.params.optional("device_id")?,
        code: call.params.optional("order_id")?,
        status: call.params.optional("order_status")?,
        kind: call.params.optional("order_type")?,
    };
    let found = world.find(&filter);
    let (size, before) = (page_size as usize, page_no as usize - 1);
    let orders = found.iter().skip(before.saturating_mul(size)).take(size);
    let package_order: Vec<_> = orders.map(|order| order.record()).collect();
    Ok(data(&Data {
        page: Page {
            cur_page_no: page_no,
            page_size,
            total_count: found.len(),
            total_pages: found.len().div_ceil(size),
        },
        sign: &call.answer_sign,
        package_order_num: package_order.len(),
        package_order,
    }))
}

/// As the documented example: `sign` and both dates are null.
#[derive(Serialize)]
struct Ordered {
    sign: (),
    order_id: String,
    order_start_date: (),
    order_expire_date: (),
}

impl Ordered {
    const fn new(order_id: String) -> Self {
        Self {
            sign: (),
            order_id,
            order_start_date: (),
            order_expire_date: (),
        }
    }
}

fn order_package(world: &mut World, call: &Call<'_>) -> Outcome {
    call.params.required("pay_amount")?;
    let placement = placement(call)?;
    let device = device(world, call)?;
    Ok(data(&Ordered::new(
        world.place(device, &placement, call.now),
    )))
}

fn batch_order_packages(world: &mut World, call: &Call<'_>) -> Outcome {
    #[derive(Serialize)]
    struct Placed<'a> {
        device_id: &'a str,
        order_id: String,
    }
    #[derive(Serialize)]
    struct Data<'a> {
        sign: (),
        order_list: Vec<Placed<'a>>,
    }

    let placement = placement(call)?;
    let devices = call.params.strings("deviceList")?;
    // One unfit device makes the whole order impossible: look at all before the first is ordered
    // for.
    for (index, device) in devices.iter().enumerate() {
        if !world.knows(device) {
            return Err(Refusal::of(&code::UNKNOWN_DEVICE, device));
        }
        if devices[..index].contains(device) {
            return Err(Refusal::of(&code::INVALID_PARAMETER, "deviceList"));
        }
    }
    let mut order_list = Vec::with_capacity(devices.len());
    for device_id in devices {
        let order_id = world.place(device_id, &placement, call.now);
        order_list.push(Placed {
            device_id,
            order_id,
        });
    }
    Ok(data(&Data {
        sign: (),
        order_list,
    }))
}

fn create_ota_order(world: &mut World, call: &Call<'_>) -> Outcome {
    for key in ["pay_amount", "pay_type", "timing_type"] {
        call.params.required(key)?;
    }
    call.params.optional("mcc")?;
    let mut placement = placement(call)?;
    placement.days = Some(call.params.integer("days", 3_650)?);
    let device = device(world, call)?;
    Ok(data(&Ordered::new(
        world.place(device, &placement, call.now),
    )))
}

fn renew_package(world: &mut World, call: &Call<'_>) -> Outcome {
    #[derive(Serialize)]
    struct Data<'a> {
        sign: &'a str,
        order_expire_date: String,
        order_id: &'a str,
    }

    let order_id = call.params.required("order_id")?;
    let periods = call.params.integer("renew_period", MAX_PERIODS)?;
    let renewed = world.renew(order_id, periods, call.now);
    let expires_at = renewed.map_err(|()| Refusal::of(&code::UNKNOWN_ORDER, order_id))?;
    let expires_at = expires_at.ok_or_else(|| Refusal::of(&code::WRONG_STATE, order_id))?;
    Ok(data(&Data {
        sign: call.sign,
        order_expire_date: calendar::text(expires_at),
        order_id,
    }))
}

fn pause_service(world: &mut World, call: &Call<'_>) -> Outcome {
    #[derive(Serialize)]
    struct Data<'a> {
        device_id: &'a str,
    }

    let device_id = device(world, call)?;
    if world.pause(device_id) == 0 {
        return Err(Refusal::of(&code::WRONG_STATE, device_id));
    }
    Ok(data(&Data { device_id }))
}

fn query_device(world: &mut World, call: &Call<'_>) -> Outcome {
    #[derive(Serialize)]
    struct Data<'a> {
        device_id: &'a str,
        package_order: Option<Record<'a>>,
    }

    let device_id = device(world, call)?;
    Ok(data(&Data {
        device_id,
        package_order: world.in_use(device_id).map(Order::record),
    }))
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn sync_asset_info(world: &mut World, _call: &Call<'_>) -> Outcome {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Asset<'a> {
        asset_id: &'a str,
        /// 1 before activation, 2 active.
        life_cycle: &'static str,
    }

    let assets = world.devices().iter().map(|device| Asset {
        asset_id: device,
        life_cycle: match world.in_use(device) {
            Some(_) => "2",
            None => "1",
        },
    });
    Ok(data(&assets.collect::<Vec<_>>()))
}

fn query_device_flow_usage(world: &mut World, call: &Call<'_>) -> Outcome {
    #[derive(Serialize)]
    struct Data<'a> {
        sign: &'a str,
        device_id: &'a str,
        order_code: &'a str,
        order_used_flow: String,
        high_flow_balance: String,
    }

    let device_id = device(world, call)?;
    let order = order_in_use(world, device_id)?;
    Ok(data(&Data {
        sign: &call.answer_sign,
        device_id,
        order_code: &order.code,
        order_used_flow: order.used().to_string(),
        high_flow_balance: order.remaining().to_string(),
    }))
}

fn info_by_device_id(world: &mut World, call: &Call<'_>) -> Outcome {
    #[derive(Serialize)]
    struct Data {
        imsi: String,
        remaining_flow: String,
    }

    let device_id = device(world, call)?;
    let order = order_in_use(world, device_id)?;
    let tail = device_id.get(device_id.len().saturating_sub(10)..);
    Ok(data(&Data {
        imsi: format!("45400{}", tail.unwrap_or_default()),
        remaining_flow: order.remaining().to_string(),
    }))
}

/// A SIM of the account.
fn device<'a>(world: &World, call: &Call<'a>) -> Result<&'a str, Refusal> {
    let device = call.params.required("device_id")?;
    if world.knows(device) {
        Ok(device)
    } else {
        Err(Refusal::of(&code::UNKNOWN_DEVICE, device))
    }
}

fn order_in_use<'a>(world: &'a World, device: &str) -> Result<&'a Order, Refusal> {
    let order = world.in_use(device);
    order.ok_or_else(|| Refusal::of(&code::WRONG_STATE, device))
}

/// What every kind of order names. `pay_type` is optional but where it is asked for by name.
fn placement(call: &Call<'_>) -> Result<Placement, Refusal> {
    let params = &call.params;
    for key in ["global_order", "pay_rst", "test_flow"] {
        params.required(key)?;
    }
    params.optional("pay_type")?;
    let kind = params.required("package_type")?;
    if !matches!(kind, "0" | "1" | "2" | "3" | "4" | "5") {
        return Err(Refusal::of(&code::INVALID_PARAMETER, "package_type"));
    }
    Ok(Placement {
        plan: Plan {
            code: params.required("package_code")?.to_owned(),
            name: params.required("package_name")?.to_owned(),
            kind: kind.to_owned(),
        },
        periods: params.digits("order_period", MAX_PERIODS)?,
        days: None,
        open: params.flag("is_open")?,
        test_flow: params.flag("test_flow_flag")?,
    })
}

#[cfg(test)]
mod tests;
