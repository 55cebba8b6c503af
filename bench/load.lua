-- wrk's part of bench/verify_load.py: asks the paths listed in a file in turn, waits between two
-- requests of a connection as long as told, and ends with one line of JSON.

local paths, number = {}, 0
local pause_ms = 0

function init(arguments)
   for line in io.lines(arguments[1]) do
      paths[#paths + 1] = line
   end
   pause_ms = tonumber(arguments[2])
   math.randomseed(os.time())
   number = math.random(#paths)
end

function request()
   number = number % #paths + 1
   return wrk.format("GET", paths[number])
end

-- Drawn anew each time, or the connections would fall into step.
function delay()
   return math.floor(pause_ms * 2 * math.random())
end

function done(summary, latency, _)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "seconds": %.6f, "failed": %d, "median_ms": %.3f, "p99_ms": %.3f}\n',
      summary.requests, summary.duration / 1e6,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
   ))
end
