-- Users at work. Of ten requests four read a task, four list 20, and two write: create, patch or toggle.
-- The file that the command line names has a line for each user: a token, and the ids of the user's tasks.

dofile("result.lua")

seed = 1 -- every run makes the same requests
local users = {}

init = function(arguments)
  math.randomseed(seed)
  for line in io.lines(arguments[1]) do
    local token, ids = line:match("(%S+) (.+)")
    local user = { tasks = {}, headers = { Authorization = "Bearer " .. token, ["Content-Type"] = "application/json" } }
    for id in ids:gmatch("%S+") do table.insert(user.tasks, "/api/tasks/" .. id) end
    table.insert(users, user)
  end
end

request = function()
  local user = users[math.random(#users)]
  local task = user.tasks[math.random(#user.tasks)]
  local dice = math.random(30)
  if dice <= 12 then return wrk.format("GET", task, user.headers) end
  if dice <= 24 then return wrk.format("GET", "/api/tasks?limit=20", user.headers) end
  if dice <= 26 then return wrk.format("POST", "/api/tasks", user.headers, '{"title": "Buy milk"}') end
  if dice <= 28 then return wrk.format("PATCH", task, user.headers, '{"title": "Buy more milk"}') end
  return wrk.format("POST", task .. "/toggle", user.headers)
end
