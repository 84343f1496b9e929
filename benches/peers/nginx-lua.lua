-- The gateway's job, as a team would write it in nginx with Lua.

local cjson = require "cjson"
local encode, find, sort, concat = cjson.encode, string.find, table.sort, table.concat
local pages = ngx.shared.pages

local SECRET = "demo-secret-0001"
local CALLERS = { ["Bearer token-of-the-benchmark"] = { name = "billing", tenants = { acme = "P000270", globex = "P000271" } } }
local GLOBALS = { access_code = true, timestamp = true, version = true, sign = true }
local FRESH_FOR = 3600

local function refuse(status, code)
  ngx.status = status
  ngx.say(encode({ code = code, success = false, request_id = ngx.var.request_id }))
  return ngx.exit(status)
end

local function text(value)
  if type(value) == "string" then
    if not find(value, '[%c"\\]') then return '"' .. value .. '"' end
    return (encode(value):gsub("\\/", "/"))
  elseif type(value) ~= "table" then
    return encode(value)
  end
  local parts = {}
  if #value > 0 then
    for index, item in ipairs(value) do parts[index] = text(item) end
    return "[" .. concat(parts, ",") .. "]"
  end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  sort(keys)
  for index, key in ipairs(keys) do parts[index] = text(key) .. ":" .. text(value[key]) end
  return "{" .. concat(parts, ",") .. "}"
end

local function is_empty(value)
  return value == cjson.null or value == "" or (type(value) == "table" and next(value) == nil)
end

-- Who asks, for which tenant, and what: the parameters that count.
local function read()
  local var = ngx.var
  local caller = CALLERS[var.http_authorization]
  if not caller then return refuse(401, "unauthorized") end
  if ngx.req.get_method() ~= "POST" then return refuse(405, "method_not_allowed") end
  if var.content_type ~= "application/json" then return refuse(415, "unsupported_media_type") end
  if var.http_origin then return refuse(403, "foreign_origin") end
  local tenant = var.http_x_linksfield_tenant
  local access_code = caller.tenants[tenant]
  if not access_code then return refuse(403, "unknown_tenant") end
  var.caller, var.tenant = caller.name, tenant
  ngx.req.read_body()
  local is_json, fields = pcall(cjson.decode, ngx.req.get_body_data())
  if not is_json or type(fields) ~= "table" then return refuse(400, "invalid_json") end
  for key, value in pairs(fields) do
    if GLOBALS[key] or is_empty(value) then fields[key] = nil end
  end
  return fields, access_code
end

local function sign(fields, access_code)
  fields.access_code, fields.timestamp, fields.version = access_code, tostring(ngx.time()), "2.0"
  local canonical = text(fields)
  local signature = ngx.encode_base64(ngx.hmac_sha1(SECRET, canonical))
  return canonical:sub(1, -2) .. ',"sign":"' .. signature .. '"}'
end

local function answer(page, cache_status, age)
  local header = ngx.header
  header["Content-Type"] = "application/json"
  header["Content-Length"] = #page
  header["Cache-Status"] = cache_status
  header["Age"] = age
  header["Cache-Control"] = "no-store"
  header["x-request-id"] = ngx.var.request_id
  ngx.print(page)
end

local gateway = {}

function gateway.query()
  local fields, access_code = read()
  local language = ngx.var.http_accept_language == "en-US" and "en-US" or "zh-CN"
  local key = access_code .. "\n" .. ngx.var.uri .. "\n" .. language .. "\n" .. text(fields)
  local page, stored_at = pages:get(key)
  if page then
    local age = ngx.time() - stored_at
    ngx.var.result = "hit"
    return answer(page, "nginx; hit; ttl=" .. FRESH_FOR - age, age)
  end
  ngx.var.result = "miss"
  local filled = ngx.location.capture("/fill", { method = ngx.HTTP_POST, body = sign(fields, access_code) })
  local is_json, envelope = pcall(cjson.decode, filled.body)
  if filled.status ~= 200 or not is_json then return refuse(502, "upstream_invalid_answer") end
  if envelope.code == "0000" then pages:set(key, filled.body, FRESH_FOR, ngx.time()) end
  answer(filled.body, "nginx; fwd=miss", 0)
end

function gateway.command()
  local fields, access_code = read()
  ngx.var.result = "command"
  ngx.req.set_body_data(sign(fields, access_code))
end

-- As the usual Prometheus library has it: counts of each worker, in plain tables.
local BOUNDS = { 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10 }
local counts, buckets = {}, {}

function gateway.count()
  local var = ngx.var
  local series = var.uri .. " " .. var.tenant .. " " .. var.result
  counts[series] = (counts[series] or 0) + 1
  local duration, bucket = ngx.now() - ngx.req.start_time(), 1
  while BOUNDS[bucket] and duration > BOUNDS[bucket] do bucket = bucket + 1 end
  buckets[bucket] = (buckets[bucket] or 0) + 1
end

function gateway.metrics()
  for series, count in pairs(counts) do ngx.say("requests ", series, " ", count) end
  for bucket, count in pairs(buckets) do ngx.say("duration ", BOUNDS[bucket] or "inf", " ", count) end
end

return gateway
