-- What wrk asks: `wrk … URL -- hit` or `command`. 10,000 different queries one after the other, or an order as often.

local requests, next_one = {}, 0

function init(arguments)
  local headers = {
    ["Content-Type"] = "application/json",
    ["Authorization"] = "Bearer token-of-the-benchmark",
    ["x-linksfield-tenant"] = "acme",
  }
  for number = 0, 9999 do
    local device = string.format("8986%016d", number)
    if arguments[1] == "command" then
      requests[number] = wrk.format("POST", "/package/orderPackage", headers, '{"device_id":"' .. device
        .. '","package_code":"DP20190726001274","order_period":"1","auto_active":"1","remark":""}')
    else
      requests[number] = wrk.format("POST", "/package/queryOrder", headers, '{"device_id":"' .. device
        .. '","order_id":"","order_status":"","order_type":"","page_no":1,"page_size":2}')
    end
  end
end

function request()
  next_one = (next_one + 1) % 10000
  return requests[next_one]
end

function done(summary)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("answered %d failed %d seconds %f\n", summary.requests, failed, summary.duration / 1e6))
end
