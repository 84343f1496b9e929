//! The shapes of the documented answers, the law of paging, and that a query sees what a command
//! did.

use serde_json::Value;

use super::super::json::parse;
use super::*;

const DEVICE: &str = "89860012018111220455";
const NOW: i64 = 1_643_253_530;

fn call(world: &mut World, path: &str, body: &str) -> Result<String, Refusal> {
    let object = parse(body.as_bytes()).unwrap();
    let call = Call {
        params: Params(&object),
        sign: "REQUEST",
        answer_sign: "ANSWER".to_owned(),
        now: NOW,
    };
    answer(world, path, &call).map(|data| data.get().to_owned())
}

fn json(world: &mut World, path: &str, body: &str) -> Value {
    serde_json::from_str(&call(world, path, body).unwrap()).unwrap()
}

fn refused(world: &mut World, path: &str, body: &str) -> (&'static str, String) {
    let refusal = call(world, path, body).unwrap_err();
    (refusal.code.code, refusal.subject.unwrap_or_default())
}

fn order(extra: &str) -> String {
    format!(
        r#"{{"global_order":"0","is_open":"0","order_period":"1","package_code":"DP20190726001274",
        "package_name":"C_M_0_P_中国20M不限速月套餐","package_type":"2","pay_rst":"1","test_flow":"0","test_flow_flag":"0"{extra}}}"#
    )
}

fn single(device: &str) -> String {
    order(&format!(r#","pay_amount":"0","device_id":"{device}""#))
}

fn total(world: &mut World) -> Value {
    let page = json(
        world,
        "/package/queryOrder",
        r#"{"page_no":1,"page_size":1}"#,
    );
    page["page"]["total_count"].clone()
}

#[test]
fn the_first_page_of_two_is_that_of_the_vendors_page() {
    let data = call(
        &mut World::new(),
        "/package/queryOrder",
        r#"{"device_id":"","order_id":"","order_status":"","order_type":"","page_no":1,"page_size":2}"#,
    );
    let order = |code: &str, date: &str| {
        format!(
            r#"{{"buyType":"2","expireDate":"","flow":"30","orderCode":"{code}","orderStatus":"1","orderDate":"{date}","orderPeriod":"1","packageCode":"PACKAGE20180428000007","packageName":"亚洲12国/地区产品二 30m/月","packageType":"2","usedFlow":"0","flowUseRate":null,"orderUsedFlow":"0","supplierCode":null,"refuelingPackageList":[],"hasTestFlow":"0","profileList":null,"isFlowPlus":null,"deviceId":"89860012018111220455","device_id":"89860012018111220455","activeDate":"","main_iccid":null}}"#
        )
    };
    let expected = format!(
        r#"{{"page":{{"cur_page_no":1,"page_size":2,"total_count":105,"total_pages":53}},"sign":"ANSWER","package_order":[{},{}],"package_order_num":2}}"#,
        order("L201903020000000617", "20190302172719"),
        order("L201903030000000626", "20190303115048"),
    );
    assert_eq!(data.unwrap(), expected);
}

#[test]
fn the_pages_of_any_size_are_all_orders_once() {
    let mut world = World::new();
    let all: Vec<String> = {
        let orders = world.find(&Filter::default());
        orders.iter().map(|order| order.code.clone()).collect()
    };
    for size in [1, 2, 7, 50, 100] {
        let mut seen = Vec::new();
        for page_no in 1..=105_usize.div_ceil(size) {
            let body = format!(r#"{{"page_no":{page_no},"page_size":{size}}}"#);
            let page = json(&mut world, "/package/queryOrder", &body);
            let orders = page["package_order"].as_array().unwrap();
            assert_eq!(page["package_order_num"], orders.len());
            seen.extend(
                orders
                    .iter()
                    .map(|o| o["orderCode"].as_str().unwrap().to_owned()),
            );
        }
        assert_eq!(seen, all);
    }
}

#[test]
fn a_page_out_of_range_is_empty() {
    let body = r#"{"page_no":4294967295,"page_size":100}"#;
    let page = json(&mut World::new(), "/package/queryOrder", body);
    assert_eq!(page["package_order"].as_array().unwrap().len(), 0);
    assert_eq!(page["package_order_num"], 0);
    assert_eq!(page["page"]["total_count"], 105);
}

#[test]
fn page_numbers_are_checked() {
    let mut world = World::new();
    for (body, code, subject) in [
        (r#"{"page_size":2}"#, "SIM-4001", "page_no"),
        (r#"{"page_no":1}"#, "SIM-4001", "page_size"),
        (r#"{"page_no":0,"page_size":2}"#, "SIM-4002", "page_no"),
        (r#"{"page_no":"1","page_size":2}"#, "SIM-4002", "page_no"),
        (r#"{"page_no":1.0,"page_size":2}"#, "SIM-4002", "page_no"),
        (r#"{"page_no":1,"page_size":101}"#, "SIM-4002", "page_size"),
        (
            r#"{"page_no":1,"page_size":2,"device_id":1}"#,
            "SIM-4002",
            "device_id",
        ),
    ] {
        let answer = refused(&mut world, "/package/queryOrder", body);
        assert_eq!(answer, (code, subject.to_owned()), "{body}");
    }
}

#[test]
fn an_order_is_listed_by_the_next_query() {
    let mut world = World::new();
    let data = call(&mut world, "/package/orderPackage", &single(DEVICE)).unwrap();
    assert_eq!(
        data,
        r#"{"sign":null,"order_id":"ORDER_47452122261749760","order_start_date":null,"order_expire_date":null}"#
    );
    assert_eq!(total(&mut world), 106);
    let page = json(
        &mut world,
        "/package/queryOrder",
        r#"{"order_id":"ORDER_47452122261749760","page_no":1,"page_size":2}"#,
    );
    let listed = &page["package_order"][0];
    assert_eq!(listed["device_id"], DEVICE);
    assert_eq!(listed["orderDate"], "20220127111850");
    assert_eq!(listed.as_object().unwrap().len(), 22);
}

#[test]
fn a_bulk_order_is_for_all_or_for_none() {
    let mut world = World::new();
    let path = "/package/batchOrderPackages";
    let list = |devices: &str| order(&format!(r#","deviceList":[{devices}]"#));
    let two = list(r#""89852022018041800192","89852022018041800184""#);
    let data = json(&mut world, path, &two);
    assert_eq!(data["order_list"].as_array().unwrap().len(), 2);
    assert_eq!(total(&mut world), 107);
    let unfit = list(r#""89852022018041800192","1""#);
    assert_eq!(refused(&mut world, path, &unfit).0, "SIM-4042");
    let twice = list(r#""89852022018041800192","89852022018041800192""#);
    assert_eq!(refused(&mut world, path, &twice).0, "SIM-4002");
    assert_eq!(refused(&mut world, path, &list("")).0, "SIM-4001");
    assert_eq!(total(&mut world), 107);
}

#[test]
fn an_ota_order_names_its_days() {
    let mut world = World::new();
    let path = "/package/createOtaOrder";
    let body = |days: &str| {
        let extra = r#","device_id":"89860012018111220455","pay_amount":"0","pay_type":"2","timing_type":"1","mcc":"""#;
        order(&format!(r#"{extra},"days":{days}"#))
    };
    assert_eq!(refused(&mut world, path, &body("\"364\"")).0, "SIM-4002");
    json(&mut world, path, &body("364"));
    assert_eq!(total(&mut world), 106);
}

#[test]
fn a_renewal_answers_with_the_requests_sign() {
    let mut world = World::new();
    let body = r#"{"order_id":"L201903020000000617","renew_period":1}"#;
    let data = call(&mut world, "/package/renewPackage", body).unwrap();
    assert_eq!(
        data,
        r#"{"sign":"REQUEST","order_expire_date":"2022-03-28 11:18:50","order_id":"L201903020000000617"}"#
    );
    let page = json(
        &mut world,
        "/package/queryOrder",
        r#"{"page_no":1,"page_size":1}"#,
    );
    assert_eq!(page["package_order"][0]["orderPeriod"], "2");
    let unknown = r#"{"order_id":"L1","renew_period":1}"#;
    let refusal = refused(&mut world, "/package/renewPackage", unknown);
    assert_eq!(refusal.0, "SIM-4041");
}

#[test]
fn a_pause_is_seen_by_the_queries_about_the_sim() {
    let mut world = World::new();
    let assets = json(&mut world, "/device/syncAssetInfo", "{}");
    let assets = assets.as_array().unwrap();
    let active = assets.iter().find(|asset| asset["lifeCycle"] == "2");
    let device = active.unwrap()["assetId"].clone();
    let body = format!(r#"{{"device_id":{device}}}"#);

    let usage = json(&mut world, "/flow/queryDeviceFlowUsage", &body);
    let keys: Vec<&str> = usage
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "device_id",
            "high_flow_balance",
            "order_code",
            "order_used_flow",
            "sign"
        ]
    );
    let info = json(&mut world, "/flow/getInfoByDeviceId", &body);
    assert!(info["imsi"].is_string());
    let before = json(&mut world, "/device/queryDevice", &body);
    assert_eq!(before["package_order"]["orderCode"], usage["order_code"]);

    json(&mut world, "/device/pauseService", &body);
    let after = json(&mut world, "/device/queryDevice", &body);
    assert!(after["package_order"].is_null());
    for path in ["/device/pauseService", "/flow/getInfoByDeviceId"] {
        assert_eq!(refused(&mut world, path, &body).0, "SIM-4090");
    }
}

#[test]
fn a_refused_command_changes_nothing() {
    let mut world = World::new();
    let path = "/package/orderPackage";
    assert_eq!(refused(&mut world, path, "{}").0, "SIM-4001");
    assert_eq!(refused(&mut world, path, &single("1")).0, "SIM-4042");
    let free = order(r#","device_id":"89860012018111220455""#);
    let refusal = refused(&mut world, path, &free);
    assert_eq!(refusal, ("SIM-4001", "pay_amount".to_owned()));
    assert_eq!(world, World::new());
}

#[test]
fn an_unknown_path_is_not_found() {
    let refusal = refused(&mut World::new(), "/package/nothing", "{}");
    assert_eq!(refusal.0, "SIM-4040");
    assert_eq!(known("/package/nothing"), None);
    assert_eq!(known("/package/queryOrder"), Some("/package/queryOrder"));
}
