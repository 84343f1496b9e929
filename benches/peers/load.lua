-- What wrk asks: `wrk … URL -- KIND [QUERIES]`.
--
-- hit: so many different queries (10,000) one after the other. spread: the same, each of another of 1,000 tenants. command: an
-- order as often. churn: queries that are kept, queries that nobody asked before, orders, and connections that end.

local kinds, kind, requests, next_one = {}, nil, {}, 0

local function post(path, tenant, body, last)
  return wrk.format("POST", path, {
    ["Content-Type"] = "application/json",
    ["Authorization"] = "Bearer token-of-the-benchmark",
    ["x-linksfield-tenant"] = tenant,
    ["Connection"] = last and "close" or nil,
  }, body)
end

local function device(number)
  return string.format('"device_id":"8986%016d"', number)
end

local function query(number, tenant, last)
  local body = "{" .. device(number) .. ',"order_id":"","order_status":"","order_type":"","page_no":1,"page_size":2}'
  return post("/package/queryOrder", tenant, body, last)
end

local function order(number, tenant)
  local body = "{" .. device(number) .. ',"package_code":"DP20190726001274","order_period":"1","auto_active":"1","remark":""}'
  return post("/package/orderPackage", tenant, body)
end

local function in_turn()
  next_one = (next_one + 1) % #requests
  return requests[next_one + 1]
end

function kinds.hit(number)
  return query(number, "acme")
end

function kinds.spread(number)
  return query(number, string.format("tenant-%d", number % 1000))
end

function kinds.command(number)
  return order(number, "acme")
end

-- Orders of globex take its queries out of the cache; those of acme stay.
local function churn()
  local dice = math.random(100)
  if dice <= 55 then
    return requests[math.random(1000)]
  elseif dice <= 60 then
    return query(math.random(1000), "acme", true)
  elseif dice <= 90 then
    next_one = next_one + 1
    return query(next_one, dice <= 75 and "acme" or "globex")
  end
  return order(math.random(1000), "globex")
end

function init(arguments)
  kind = arguments[1]
  for number = 0, tonumber(arguments[2] or 10000) - 1 do
    requests[number + 1] = (kinds[kind] or kinds.hit)(number)
  end
  if kind == "churn" then
    next_one = os.time() * 100000 -- none of an earlier run
  end
end

function request()
  if kind == "churn" then
    return churn()
  end
  return in_turn()
end

function done(summary)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("answered %d failed %d seconds %f\n", summary.requests, failed, summary.duration / 1e6))
end
