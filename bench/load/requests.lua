-- Sends increments over rotating keys, or fetches them, at a pace where one is asked for, and says at the end what came back.
-- Arguments: resource prefix, number of keys, acknowledgement or '-', mean delay in milliseconds or 0, and for a GET its path, in which
-- KEY stands for a key, or '-'.

local requests = {}
local next = 0

function init(args)
  local prefix, keys, ack, path = args[1], tonumber(args[2]), args[3], args[5]
  local meanDelay = tonumber(args[4])
  -- wrk asks for a delay only where there is such a function.
  if meanDelay > 0 then
    function delay() return math.random(0, 2 * meanDelay) end
  end
  if path == "-" then wrk.headers["content-type"] = "application/json" end
  for key = 1, keys do
    if path == "-" then
      local body = '{"resource_id":"' .. prefix .. key .. '","counter_type":"view","delta":1'
      if ack ~= "-" then body = body .. ',"ack":"' .. ack .. '"' end
      requests[key] = wrk.format("POST", "/api/v1/counter/increment", nil, body .. "}")
    else
      requests[key] = wrk.format("GET", (path:gsub("KEY", prefix .. key)))
    end
  end
  math.randomseed(os.time())
end

function request()
  next = next % #requests + 1
  return requests[next]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nREPORT {"requests":%d,"durationUs":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d,' ..
    '"p50Us":%d,"p95Us":%d,"p99Us":%d,"maxUs":%d}\n',
    summary.requests, summary.duration, errors.connect, errors.read, errors.write, errors.timeout, errors.status,
    latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max))
end
